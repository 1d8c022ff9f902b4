/** The conformance cases on the file log: on a real disk with both durabilities, and on the simulated one. */

import { cp, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileLogBackend } from "@coppice/file";
import { SimulatedDisk } from "@coppice/file/testing";
import type { Backend, BackendFactory } from "coppice";
import { type BackendSubject, backendCases, runCase } from "coppice/conformance";
import { afterAll, describe, test } from "vitest";
import { removeDirectories, temporaryDirectory } from "./stores.js";

afterAll(removeDirectories);

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
      await cp(location, left, { recursive: true });
      for (const backend of opened) await backend.close();
      await rm(location, { recursive: true });
      return make(left);
    },
  };
}

function simulatedSubject(): BackendSubject {
  const disks = new Map<BackendFactory, SimulatedDisk>();
  const make = (disk: SimulatedDisk): BackendFactory => {
    const factory = fileLogBackend("simulated", { files: disk.files, segmentBytesMax: 64 * 1024 });
    disks.set(factory, disk);
    return factory;
  };
  return {
    name: "file log on a simulated disk",
    create: async () => make(new SimulatedDisk()),
    destroy: async (factory) => void disks.delete(factory),
    crash: async (factory) => make(new SimulatedDisk(disks.get(factory)!.image())),
  };
}

for (const subject of [directorySubject("power"), directorySubject("process"), simulatedSubject()]) {
  describe(subject.name, () => {
    for (const item of backendCases) {
      test(item.name, (context) => runCase(item, subject, (reason) => context.skip(reason)));
    }
  });
}
