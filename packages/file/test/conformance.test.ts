/** The conformance cases on the file log: on a real disk with both durabilities, and on the simulated one. */

import { fileLogBackend } from "@coppice/file";
import { crashModels, type DiskImage, failure, SimulatedDisk } from "@coppice/file/testing";
import type { BackendFactory } from "coppice";
import { type BackendSubject, backendCases, runCase } from "coppice/conformance";
import { directorySubject } from "coppice/conformance/directory";
import { seededRandom } from "coppice/testing";
import { afterAll, describe, test } from "vitest";
import { removeDirectories, temporaryDirectory } from "../../../test/support/stores.js";

afterAll(removeDirectories);

async function subjectOnDisk(durability: "power" | "process"): Promise<BackendSubject> {
  return directorySubject({
    name: `file log on a disk, durability ${durability}`,
    parent: await temporaryDirectory(),
    // Small segments, so that the cases rotate and merge.
    backend: (location) => fileLogBackend(location, { durability, segmentBytesMax: 64 * 1024 }),
  });
}

function simulatedSubject(durability: "power" | "process"): BackendSubject {
  const disks = new Map<BackendFactory, SimulatedDisk>();
  const random = seededRandom(1);
  const make = (disk: SimulatedDisk): BackendFactory => {
    const factory = fileLogBackend("simulated", {
      files: disk.files,
      durability,
      segmentBytesMax: 64 * 1024,
    });
    disks.set(factory, disk);
    return factory;
  };
  // A frame that was written is there when the store is opened again, synced or not.
  const loseReply = async (factory: BackendFactory, applied: boolean) => {
    const disk = disks.get(factory)!;
    disk.fault = ({ kind }) => {
      if (kind !== (applied ? "sync" : "write")) return undefined;
      disk.fault = () => undefined;
      return failure("EIO");
    };
  };
  // Who still writes to the disk that is left behind would do so until the end of the process.
  const moveOn = (left: SimulatedDisk, image: DiskImage): BackendFactory => {
    left.fault = () => failure("ENODEV");
    return make(new SimulatedDisk(image));
  };
  return {
    name: `file log on a simulated disk, durability ${durability}`,
    create: async () => make(new SimulatedDisk()),
    destroy: async (factory) => void disks.delete(factory),
    async crash(factory) {
      const disk = disks.get(factory)!;
      return moveOn(disk, disk.image());
    },
    async powerLoss(factory) {
      const disk = disks.get(factory)!;
      return moveOn(disk, disk.crash(random.pick(crashModels), random));
    },
    async fillDisk(factory) {
      const disk = disks.get(factory)!;
      disk.capacityBytes = 0;
      return async () => {
        disk.capacityBytes = Number.POSITIVE_INFINITY;
      };
    },
    ...(durability === "power" ? { loseReply } : {}),
  };
}

const subjects = [
  await subjectOnDisk("power"),
  await subjectOnDisk("process"),
  simulatedSubject("power"),
  simulatedSubject("process"),
];

for (const subject of subjects) {
  describe(subject.name, () => {
    for (const item of backendCases) {
      test(item.name, (context) => runCase(item, subject, (reason) => context.skip(reason)));
    }
  });
}
