/**
 * The conformance cases on each kind of database: a directory, a classic-level instance, a sublevel of one, and
 * memory-level in both of its byte formats.
 */

import { levelBackend } from "@coppice/level";
import { ClassicLevel } from "classic-level";
import type { BackendFactory } from "coppice";
import { type BackendSubject, backendCases, type CaseLevel, runCase } from "coppice/conformance";
import { directorySubject } from "coppice/conformance/directory";
import { MemoryLevel } from "memory-level";
import { afterAll, describe, test } from "vitest";
import { removeDirectories, temporaryDirectory } from "../../../test/support/stores.js";

afterAll(removeDirectories);

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
  directorySubject({ name: "level directory", parent: await temporaryDirectory(), backend: levelBackend }),
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
