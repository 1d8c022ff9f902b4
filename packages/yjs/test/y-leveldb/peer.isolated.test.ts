/**
 * y-leveldb's own tests against our class. Isolated: they make their store in the working directory.
 */
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { fileLogBackend } from "@coppice/file";
import { type BackendFactory, DocumentStorage, memoryBackend } from "coppice";
import { TestCase } from "lib0/testing.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { yjs } from "../../src/index.js";

const file = join(import.meta.dirname, "peer/tests/y-leveldb.tests.js");
const names = [...readFileSync(file, "utf8").matchAll(/^export const (test\w+) = async tc/gm)].map(
  ([, name]) => name ?? "",
);
let suite: Record<string, (tc: TestCase) => Promise<void>>;
let useStorage: (storage: DocumentStorage | undefined) => void;
let folder: string;
const home = process.cwd();

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "coppice-y-leveldb-"));
  process.chdir(folder);
  suite = await import(pathToFileURL(file).href);
  ({ useStorage } = await import(pathToFileURL(join(import.meta.dirname, "peer/src/y-leveldb.js")).href));
});

afterAll(async () => {
  process.chdir(home);
  await rm(folder, { recursive: true, force: true });
});

for (const level of ["classic", "memory"]) {
  describe(`y-leveldb's tests on ${level}-level`, () => {
    test("[DI20] there are six of them", () => {
      expect(names).toHaveLength(6);
    });

    for (const name of names) {
      test(`[DI20] ${name} passes, unchanged`, async () => {
        process.env.COPPICE_TEST_LEVEL = level;
        try {
          await suite[name]!(new TestCase("leveldb", name));
        } finally {
          delete process.env.COPPICE_TEST_LEVEL;
        }
      });
    }
  });
}

const BACKENDS: Record<string, (name: string) => BackendFactory> = {
  "the file log": (name) => fileLogBackend(join(folder, name)),
  "the memory backend": () => memoryBackend(),
};

for (const [where, make] of Object.entries(BACKENDS)) {
  describe(`y-leveldb's tests on a storage on ${where}`, () => {
    for (const name of names) {
      test(`[DI20] ${name} passes, unchanged`, async () => {
        const storage = await DocumentStorage.open({ backend: make(name), models: [yjs()] });
        useStorage(storage);
        try {
          await suite[name]!(new TestCase("leveldb", name));
        } finally {
          useStorage(undefined);
          await storage.close();
        }
      });
    }
  });
}
