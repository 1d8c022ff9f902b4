// The acceptance tests that automerge-repo ships for storage adapters, unchanged, on each backend.

import { join } from "node:path";
import type { StorageAdapterInterface } from "@automerge/automerge-repo";
import { runStorageAdapterTests } from "@automerge/automerge-repo/helpers/tests/storage-adapter-tests.js";
import { levelBackend } from "@coppice/level";
import { type BackendFactory, memoryBackend } from "coppice";
import { MemoryLevel } from "memory-level";
import { describe } from "vitest";
import { AutomergeRepoStorage } from "../src/index.js";
import { withFolder } from "./folders.js";

const BACKENDS: Record<string, (folder: string) => BackendFactory> = {
  memory: () => memoryBackend(),
  LevelDB: (folder) => levelBackend(join(folder, "store")),
  "memory-level": () => levelBackend(new MemoryLevel()),
};

for (const [name, make] of Object.entries(BACKENDS)) {
  describe(`[AM20] automerge-repo's acceptance tests on ${name}`, () => {
    runStorageAdapterTests(async () => {
      const { folder, remove } = await withFolder();
      const storage = await AutomergeRepoStorage.open(make(folder));
      const adapter: StorageAdapterInterface = storage;
      const teardown = async () => {
        await storage.close();
        await remove();
      };
      return { adapter, teardown };
    }, name);
  });
}
