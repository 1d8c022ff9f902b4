/** What somebody else has put into the directory of a file log, and files of it that cannot be read. */

import { execFileSync } from "node:child_process";
import { mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { checkFileLog, fileLogBackend, listFrames } from "@coppice/file";
import { type Env, systemEnv } from "coppice";
import { afterEach, expect, test } from "vitest";
import { bytes, removeDirectories, temporaryDirectory } from "../../../test/support/stores.js";

afterEach(removeDirectories);

const SMALL = { segmentBytesMax: 65_536, mergeDeadRatioMin: 1 };
const env: Env = systemEnv();

/** A closed store of some segments. */
async function store(): Promise<string> {
  const directory = await temporaryDirectory();
  await write(directory, 0, 40);
  return directory;
}

async function write(directory: string, from: number, to: number, more = {}): Promise<void> {
  const backend = await fileLogBackend(directory, { ...SMALL, ...more }).open(env);
  for (let seq = from; seq < to; seq++)
    await backend.commit({ put: [{ key: ["events", "d", seq], value: bytes(3000, 1 + seq) }] });
  await backend.close();
}

async function count(directory: string): Promise<number> {
  let found = 0;
  for await (const frame of listFrames(directory)) found += frame.records.length;
  return found;
}

const REFUSED = { code: "UNAVAILABLE", message: /file system refused/ };

for (const [name, what] of [
  ["00000099.seg", "a segment that there is not"],
  ["00000002.seg", "a segment"],
  ["MANIFEST", "the manifest"],
  ["LOCK", "the lock"],
] as const)
  test(`[FL40] a directory in the place of ${what} is an error that names it`, async () => {
    const directory = await store();
    const path = join(directory, name);
    await rename(path, `${path}.was`).catch(() => undefined);
    await mkdir(path);
    const named = { ...REFUSED, cause: { code: "EISDIR", message: expect.stringContaining(path) } };
    for (const repair of [false, true])
      await expect(checkFileLog(directory, { repair })).rejects.toMatchObject(named);
    if (name === "MANIFEST" || name === "00000002.seg")
      await expect(count(directory)).rejects.toMatchObject(named);
    await rm(path, { recursive: true });
    await rename(`${path}.was`, path).catch(() => undefined);
    expect((await checkFileLog(directory)).damage).toEqual([]);
    await write(directory, 40, 41, { createIfMissing: false });
  });

test("[FL40] a pipe in the place of a file is refused or passed over, and waits for nobody", async (context) => {
  context.skip(process.platform === "win32", "there are no named pipes in its directories");
  for (const name of ["00000099.seg", "00000002.hint", "00000002.seg", "MANIFEST"]) {
    const directory = await store();
    const path = join(directory, name);
    await rename(path, `${path}.was`).catch(() => undefined);
    execFileSync("mkfifo", [path]);
    for (const readOnly of [true, false]) {
      const opened = fileLogBackend(directory, { readOnly, createIfMissing: false }).open(env);
      await opened.then((backend) => backend.close()).catch(() => undefined);
    }
    await checkFileLog(directory).catch(() => undefined);
  }
});

test("[FL41] a name with a number that no log comes to leads to none that is not told from others", async () => {
  for (const stray of ["999999999999999.seg", "100000000000000.hint", "999999999999999.spare"]) {
    const directory = await store();
    await writeFile(join(directory, stray), "");
    await write(directory, 40, 80);
    const names = (await readdir(directory)).filter((name) => name.endsWith(".seg"));
    for (const name of names) expect(name).toMatch(/^\d{8}\.seg$/);
    await rm(join(directory, "MANIFEST"));
    await expect(fileLogBackend(directory).open(env)).rejects.toMatchObject({ code: "CORRUPT" });
    await writeFile(join(directory, stray), "");
    expect((await checkFileLog(directory, { repair: true })).repaired).toBe(true);
    expect(await count(directory)).toBe(80);
    await write(directory, 80, 81, { createIfMissing: false });
  }
});
