/**
 * The conformance cases on each kind of database: a directory, a classic-level instance, a sublevel of one, and
 * memory-level in both of its byte formats.
 */

import { cp, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { levelBackend } from "@coppice/level";
import { ClassicLevel } from "classic-level";
import type { Backend, BackendFactory } from "coppice";
import { type BackendSubject, backendCases, type CaseLevel, runCase } from "coppice/conformance";
import { MemoryLevel } from "memory-level";
import { afterAll, describe, test } from "vitest";
import { filesHolding } from "../../../test/support/files.js";
import { removeDirectories, temporaryDirectory } from "../../../test/support/stores.js";

afterAll(removeDirectories);

interface Store {
  readonly location: string;
  readonly opened: Backend[];
}

/** Remembers what it opened, so that a crash can abandon it. */
function directoryFactory(location: string, stores: Map<BackendFactory, Store>): BackendFactory {
  const inner = levelBackend(location);
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
}

/** LevelDB deletes and renames files in the background: a copy counts when none came or went meanwhile. */
async function copyWhileQuiet(from: string, to: string): Promise<void> {
  const names = async () => (await readdir(from)).sort().join(" ");
  for (;;) {
    const before = await names();
    const copied = await cp(from, to, { recursive: true }).then(
      () => true,
      (error: NodeJS.ErrnoException) => {
        if (error.code !== "ENOENT") throw error;
        return false;
      },
    );
    if (copied && before === (await names())) return;
    await rm(to, { recursive: true, force: true });
  }
}

function directorySubject(): BackendSubject {
  const stores = new Map<BackendFactory, Store>();
  return {
    name: "level directory",
    create: async () => directoryFactory(join(await temporaryDirectory(), "store"), stores),
    destroy: (factory) => rm(stores.get(factory)!.location, { recursive: true }),
    holds: async (factory, bytes) => (await filesHolding(stores.get(factory)!.location, bytes)).length > 0,
    // What a killed process leaves is what the kernel has: the files as another process can read them now.
    async crash(factory) {
      const { location, opened } = stores.get(factory)!;
      const left = join(await temporaryDirectory(), "store");
      await copyWhileQuiet(location, left);
      for (const backend of opened) await backend.close();
      await rm(location, { recursive: true });
      return directoryFactory(left, stores);
    },
  };
}

function instanceSubject(
  name: string,
  make: () => Promise<{ factory: BackendFactory; close: () => Promise<void> }>,
): BackendSubject {
  const closers = new Map<BackendFactory, () => Promise<void>>();
  return {
    name,
    async create() {
      const { factory, close } = await make();
      closers.set(factory, close);
      return factory;
    },
    destroy: async (factory) => closers.get(factory)?.(),
  };
}

const subjects = [
  directorySubject(),
  instanceSubject("classic-level instance with its default encodings", async () => {
    const db = new ClassicLevel(await temporaryDirectory());
    return { factory: levelBackend(db), close: () => db.close() };
  }),
  instanceSubject("sublevel of a classic-level instance", async () => {
    const db = new ClassicLevel<string, unknown>(await temporaryDirectory(), { valueEncoding: "json" });
    return { factory: levelBackend(db.sublevel("documents")), close: () => db.close() };
  }),
  instanceSubject("memory-level that stores buffers", async () => {
    const db = new MemoryLevel();
    return { factory: levelBackend(db), close: () => db.close() };
  }),
  instanceSubject("memory-level that stores views", async () => {
    const db = new MemoryLevel({ storeEncoding: "view", keyEncoding: "json" });
    return { factory: levelBackend(db), close: () => db.close() };
  }),
];

// Disks are filled and power is cut in test/crash, on file systems made for it.
const levels: readonly (CaseLevel | undefined)[] = ["contract", "race"];

for (const subject of subjects) {
  describe(subject.name, () => {
    const crashes = subject.crash === undefined ? [] : ["crash"];
    // Losses of power too are in test/crash, on a real ext4.
    const cases = backendCases.filter(({ title }) => !title.includes("a loss of power"));
    for (const item of cases.filter(({ level = "contract" }) => [...levels, ...crashes].includes(level))) {
      test(item.name, (context) => runCase(item, subject, (reason) => context.skip(reason)));
    }
  });
}
