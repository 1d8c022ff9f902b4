// The tests that automerge-repo has for its storage subsystem, unchanged, as they are published with it: they are
// read from the package, and what they import as adapters is ours.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { runInThisContext } from "node:vm";
import * as Automerge from "@automerge/automerge";
import * as repository from "@automerge/automerge-repo";
import { fileLogBackend } from "@coppice/file";
import { levelBackend } from "@coppice/level";
import { type BackendFactory, DocumentStorage, memoryBackend } from "coppice";
import ts from "typescript";
import * as vitest from "vitest";
import { AutomergeRepoDocuments, AutomergeRepoStorage, automerge, type RepoStorage } from "../src/index.js";
import { withFolder } from "./folders.js";

const { afterAll, beforeAll, describe, expect, test } = vitest;
const require = createRequire(import.meta.url);
const peer = dirname(dirname(dirname(require.resolve("@automerge/automerge-repo"))));
const FILE = "test/StorageSubsystem.test.ts";

type Open = (name: string) => Promise<RepoStorage & { close(): Promise<void> }>;
type Make = (name: string) => BackendFactory;

const BACKENDS: Record<string, (folder: string) => Make> = {
  memory: () => () => memoryBackend(),
  "the file log": (folder) => (name) => fileLogBackend(join(folder, name)),
  LevelDB: (folder) => (name) => levelBackend(join(folder, name)),
};

const ADAPTERS: Record<string, (make: Make) => Open> = {
  AutomergeRepoStorage: (make) => (name) => AutomergeRepoStorage.open(make(name)),
  AutomergeRepoDocuments: (make) => async (name) => {
    const storage = await DocumentStorage.open({ backend: make(`${name}-log`), models: [automerge()] });
    return new AutomergeRepoDocuments(storage, await AutomergeRepoStorage.open(make(`${name}-others`)));
  },
};

/** The log is changes until a compaction, so what a new document is loaded from does not begin with a snapshot. */
const OTHERWISE: Record<string, string> = { AutomergeRepoDocuments: "combines chunks with snapshot first" };

/** A class whose constructor takes what the peer's takes, and that opens an adapter of ours at its first call. */
function adapterClass(open: () => Open, opened: Promise<{ close(): Promise<void> }>[]) {
  return class implements RepoStorage {
    #adapter: ReturnType<Open> | undefined;

    #get(): ReturnType<Open> {
      if (this.#adapter === undefined) {
        this.#adapter = open()(`store-${opened.length}`);
        opened.push(this.#adapter);
      }
      return this.#adapter;
    }

    async load(key: string[]) {
      return (await this.#get()).load(key);
    }
    async save(key: string[], data: Uint8Array) {
      return (await this.#get()).save(key, data);
    }
    async remove(key: string[]) {
      return (await this.#get()).remove(key);
    }
    async loadRange(prefix: string[]) {
      return (await this.#get()).loadRange(prefix);
    }
    async removeRange(prefix: string[]) {
      return (await this.#get()).removeRange(prefix);
    }
  };
}

const source = await readFile(join(peer, FILE), "utf8");
const { outputText } = ts.transpileModule(source, {
  compilerOptions: {
    module: ts.ModuleKind.CommonJS,
    target: ts.ScriptTarget.ES2022,
    esModuleInterop: true,
  },
});
const run = runInThisContext(`(function (require, exports) {${outputText}\n})`, { filename: FILE }) as (
  require: (name: string) => unknown,
  exports: object,
) => void;

for (const adapterName of Object.keys(ADAPTERS)) {
  for (const backendName of Object.keys(BACKENDS)) {
    describe(`[AM29] automerge-repo's tests of its storage subsystem: ${adapterName} on ${backendName}`, () => {
      const opened: Promise<{ close(): Promise<void> }>[] = [];
      const titles: string[] = [];
      let place: Awaited<ReturnType<typeof withFolder>>;
      beforeAll(async () => {
        place = await withFolder();
      });
      afterAll(async () => {
        for (const adapter of opened) await (await adapter).close();
        await place.remove();
      });

      const Adapter = adapterClass(
        () => ADAPTERS[adapterName]!(BACKENDS[backendName]!(place.folder)),
        opened,
      );
      const it = (title: string, body: () => Promise<void>) => {
        titles.push(title);
        if (title !== OTHERWISE[adapterName]) test(title, body);
        else
          test(`[AM29] otherwise here: ${title}`, () =>
            expect(body()).rejects.toThrow(/expected \d+ to be \+?0/));
      };
      const modules: Record<string, unknown> = {
        vitest: { ...vitest, it },
        "@automerge/automerge": Automerge,
        "../../automerge-repo-storage-nodefs/src/index.js": { NodeFSStorageAdapter: Adapter },
        "../src/helpers/DummyStorageAdapter.js": { DummyStorageAdapter: Adapter },
        "../src/AutomergeUrl.js": repository,
        "../src/index.js": repository,
        "../src/storage/StorageSubsystem.js": {
          // The one that a Repo makes: the package does not export the class.
          StorageSubsystem: function StorageSubsystem(storage: repository.StorageAdapterInterface) {
            return new repository.Repo({ storage }).storageSubsystem;
          },
        },
      };
      run((name) => modules[name] ?? createRequire(join(peer, FILE))(name), {});

      test("[AM29] there are 28 of them, two adapters at a time", () => {
        expect(titles).toHaveLength(28);
      });
    });
  }
}
