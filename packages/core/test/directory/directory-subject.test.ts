/** The subject for backends in directories, with some that never stop writing. */

import { mkdirSync, writeFileSync } from "node:fs";
import { mkdir, open, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type BackendFactory, memoryBackend, systemEnv } from "coppice";
import { directorySubject } from "coppice/conformance/directory";
import { afterAll, expect, test } from "vitest";
import { removeDirectories, temporaryDirectory } from "../../../../test/support/stores.js";

afterAll(removeDirectories);

/** Counts in two files, the first always first, renaming a third meanwhile, until it is closed. */
function restless(location: string, seen: string[]): BackendFactory {
  seen.push(location);
  return {
    name: "restless",
    async open(env) {
      const backend = await memoryBackend().open(env);
      await mkdir(location, { recursive: true });
      await writeFile(join(location, "moving-0"), "");
      let closed = false;
      const files = await Promise.all(["first", "second"].map((name) => open(join(location, name), "w")));
      const write = async () => {
        for (let round = 0; !closed; round++) {
          for (const file of files) await file.write(String(round).padStart(12), 0);
          await rename(join(location, `moving-${round}`), join(location, `moving-${round + 1}`));
        }
      };
      const writing = write();
      const close = async () => {
        closed = true;
        await writing;
        for (const file of files) await file.close();
        await backend.close();
      };
      return Object.assign(Object.create(backend), { close });
    },
  };
}

test("[TS23] a crash leaves files of one moment, though the backend never stops writing", async () => {
  const parent = await temporaryDirectory();
  const seen: string[] = [];
  const subject = directorySubject({ name: "restless", parent, backend: (at) => restless(at, seen) });
  for (let round = 0; round < 8; round++) {
    const factory = await subject.create();
    await factory.open(systemEnv());
    await new Promise((resolve) => setTimeout(resolve, round));
    const left = await subject.crash!(factory);
    const [first, second] = await Promise.all(
      ["first", "second"].map(async (name) => Number(await readFile(join(seen.at(-1)!, name), "utf8"))),
    );
    expect([0, 1]).toContain(first! - second!);
    await subject.destroy!(left);
  }
});

/** Writes a new file in each turn of the event loop, through `close` too, until it is told to stop. */
function unstoppable(location: string, stop: AbortSignal): BackendFactory {
  return {
    name: "unstoppable",
    async open(env) {
      const write = (n: number) => {
        if (stop.aborted) return;
        mkdirSync(join(location, "files"), { recursive: true });
        writeFileSync(join(location, "files", `${n}`), `the text of ${n}`);
        setImmediate(write, n + 1);
      };
      write(0);
      return memoryBackend().open(env);
    },
  };
}

test("[BK63] a dead backend that goes on writing fails no crash, and destroy names what stays", async () => {
  const parent = await temporaryDirectory();
  const stop = new AbortController();
  const backend = (location: string) => unstoppable(location, stop.signal);
  const subject = directorySubject({ name: "unstoppable", parent, backend });
  try {
    const factory = await subject.create();
    await factory.open(systemEnv());
    const left = await subject.crash!(factory);
    await expect(subject.destroy!(left)).rejects.toThrow(/store-1 cannot be removed after close.*ENOTEMPTY/);
    stop.abort();
    await subject.destroy!(left);
    expect(await readdir(parent)).toEqual([]);
    await expect(subject.destroy!(left)).rejects.toThrow("this factory was not made by this subject");
  } finally {
    stop.abort();
  }
});

test("[BK64] the search says in which file of the store it has found the bytes", async () => {
  const parent = await temporaryDirectory();
  const stop = new AbortController();
  const backend = (location: string) => unstoppable(location, stop.signal);
  const subject = directorySubject({ name: "searched", parent, backend });
  const factory = await subject.create();
  await factory.open(systemEnv());
  stop.abort();
  const search = (text: string) => subject.holds!(factory, new TextEncoder().encode(text));
  expect(await search("text of 0")).toBe(join("files", "0"));
  expect(await search("text of nobody")).toBe(false);
  await subject.destroy!(factory);
});
