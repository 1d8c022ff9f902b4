/**
 * y-leveldb's own tests against our class. Isolated: they make their store in the working directory.
 */
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { TestCase } from "lib0/testing.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const file = join(import.meta.dirname, "peer/tests/y-leveldb.tests.js");
const names = [...readFileSync(file, "utf8").matchAll(/^export const (test\w+) = async tc/gm)].map(
  ([, name]) => name ?? "",
);
let suite: Record<string, (tc: TestCase) => Promise<void>>;
let folder: string;
const home = process.cwd();

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "coppice-y-leveldb-"));
  process.chdir(folder);
  suite = await import(pathToFileURL(file).href);
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
