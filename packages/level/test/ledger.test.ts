/** The numbers of commits, as they are compared; and what an open store holds besides. */

import { readdir, readlink } from "node:fs/promises";
import { join } from "node:path";
import { levelBackend } from "@coppice/level";
import { ClassicLevel } from "classic-level";
import { systemEnv } from "coppice";
import { afterEach, expect, test } from "vitest";
import { bytes, removeDirectories, temporaryDirectory } from "../../../test/support/stores.js";
import { examineDirectory } from "../src/examination.js";
import { COMMIT_KEY, Ledger, readMark, writeMark } from "../src/ledger.js";

afterEach(removeDirectories);

test("[LB2] of two histories of equal length the chain tells which one is there", () => {
  const mark = { number: 7, chain: 3, before: 2 };
  const ledger = new Ledger(writeMark(mark), undefined, undefined);
  ledger.assertLast(writeMark(mark));
  const others = [
    { ...mark, chain: 4 },
    { ...mark, number: 8 },
  ].map(writeMark);
  for (const other of [...others, undefined])
    expect(() => ledger.assertLast(other)).toThrowError(expect.objectContaining({ code: "LOCKED" }));
});

test("[LB3] a last commit that LevelDB did not take over from its log is CORRUPT", async () => {
  const location = join(await temporaryDirectory(), "store");
  const backend = await levelBackend(location).open(systemEnv());
  for (let seq = 0; seq < 3; seq++)
    await backend.commit({ put: [{ key: ["events", "d", seq], value: bytes(2000, seq) }] });
  await backend.close();
  // What others write into the store has no number, and hides none.
  const raw = new ClassicLevel<string, string>(location);
  await raw.put("other", "value");
  await raw.close();
  const { logged } = await examineDirectory(location, "logs");
  // Reopening has moved the commits to a table.
  expect(logged).toBeUndefined();
  const again = await levelBackend(location).open(systemEnv());
  await again.commit({ put: [{ key: ["events", "d", 3], value: bytes(10, 3) }] });
  await again.close();
  const { logged: last } = await examineDirectory(location, "logs");
  expect(readMark(last!)).toMatchObject({ number: 4 });
  const db = new ClassicLevel<Uint8Array, Uint8Array>(location, {
    keyEncoding: "view",
    valueEncoding: "view",
  });
  expect(await db.get(COMMIT_KEY)).toEqual(last);
  await db.close();
  const before = writeMark({ ...readMark(last!)!, number: 3 });
  new Ledger(last, last, undefined);
  for (const stored of [before, undefined])
    expect(() => new Ledger(stored, last, undefined)).toThrowError(
      expect.objectContaining({ code: "CORRUPT" }),
    );
});

test("[LB18] a store that was closed leaves no file open", async (context) => {
  if (process.platform !== "linux") return context.skip("only Linux lists the open files of a process");
  const directory = await temporaryDirectory();
  const cycle = async () => {
    const options = { writeBufferBytes: 64 * 1024, anchor: join(directory, "anchor") };
    const backend = await levelBackend(join(directory, "store"), options).open(systemEnv());
    for (let seq = 0; seq < 40; seq++)
      await backend.commit({ put: [{ key: ["events", "d", seq], value: bytes(8000, seq) }] });
    await backend.reclaim();
    await backend.close();
  };
  await cycle();
  const open = await Promise.all(
    (await readdir("/proc/self/fd")).map((name) => readlink(`/proc/self/fd/${name}`).catch(() => "")),
  );
  expect(open.filter((path) => path.startsWith(directory))).toEqual([]);
});
