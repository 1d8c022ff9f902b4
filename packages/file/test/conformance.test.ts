/** The conformance cases on the file log: on a real disk with both durabilities, and on the simulated one. */

import { cp, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileLogBackend } from "@coppice/file";
import { crashModels, failure, SimulatedDisk } from "@coppice/file/testing";
import type { Backend, BackendFactory } from "coppice";
import { type BackendSubject, backendCases, runCase } from "coppice/conformance";
import { seededRandom } from "coppice/testing";
import { afterAll, describe, test } from "vitest";
import { removeDirectories, temporaryDirectory } from "../../../test/support/stores.js";
import { MANIFEST } from "../src/manifest.js";

afterAll(removeDirectories);

/**
 * Segments come and go in the background: a copy counts when none did meanwhile, and none was taken into use. A
 * copy takes time, and its manifest must not name a segment that it copied before the segment had a header.
 */
async function copyWhileQuiet(from: string, to: string): Promise<void> {
  const state = async () => {
    const manifest = await readFile(join(from, MANIFEST), "latin1");
    return [...(await readdir(from)).sort(), manifest].join(" ");
  };
  for (;;) {
    const before = await state();
    const copied = await cp(from, to, { recursive: true }).then(
      () => true,
      (error: NodeJS.ErrnoException) => {
        if (error.code !== "ENOENT") throw error;
        return false;
      },
    );
    if (copied && before === (await state())) return;
    await rm(to, { recursive: true, force: true });
  }
}

function directorySubject(durability: "power" | "process"): BackendSubject {
  const stores = new Map<BackendFactory, { location: string; opened: Backend[] }>();
  const make = (location: string): BackendFactory => {
    // Small segments, so that the cases rotate and merge.
    const inner = fileLogBackend(location, { durability, segmentBytesMax: 64 * 1024 });
    const opened: Backend[] = [];
    const factory: BackendFactory = {
      name: inner.name,
      async open(env) {
        const backend = await inner.open(env);
        opened.push(backend);
        return backend;
      },
    };
    stores.set(factory, { location, opened });
    return factory;
  };
  return {
    name: `file log on a disk, durability ${durability}`,
    create: async () => make(join(await temporaryDirectory(), "store")),
    destroy: (factory) => rm(stores.get(factory)!.location, { recursive: true }),
    // What a killed process leaves is what the kernel has: the files as another process can read them now.
    async crash(factory) {
      const { location, opened } = stores.get(factory)!;
      const left = join(await temporaryDirectory(), "store");
      await copyWhileQuiet(location, left);
      for (const backend of opened) await backend.close();
      await rm(location, { recursive: true });
      return make(left);
    },
  };
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
  return {
    name: `file log on a simulated disk, durability ${durability}`,
    create: async () => make(new SimulatedDisk()),
    destroy: async (factory) => void disks.delete(factory),
    crash: async (factory) => make(new SimulatedDisk(disks.get(factory)!.image())),
    powerLoss: async (factory) =>
      make(new SimulatedDisk(disks.get(factory)!.crash(random.pick(crashModels), random))),
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
  directorySubject("power"),
  directorySubject("process"),
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
