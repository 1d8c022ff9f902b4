import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { metaId } from "@coppice/yjs/y-leveldb";
import { ClassicLevel } from "classic-level";
import { LIMITS } from "coppice";
import { afterAll, beforeAll, expect, test } from "vitest";
import { LeveldbPersistence } from "y-leveldb";
import type { Doc } from "yjs";
import { filesHolding } from "../../../test/support/files.js";
import {
  cleanUp,
  coppice,
  jsonLines,
  keystrokes,
  makeNewer,
  openStore,
  start,
  temporaryDirectory,
} from "./command.js";

let source: string;

beforeAll(async () => {
  source = join(await temporaryDirectory(), "old");
  const theirs = new LeveldbPersistence(source);
  for (const update of keystrokes("hello")) await theirs.storeUpdate("notes", update);
  await theirs.storeUpdate("more", keystrokes("x")[0]!);
  await theirs.setMeta("notes", "title", "Notes");
  await theirs.destroy();
});
afterAll(cleanUp);

/** Every key and value of the source. */
async function contentOf(location: string): Promise<[key: string, value: string][]> {
  const db = new ClassicLevel<string, string>(location, { keyEncoding: "hex", valueEncoding: "hex" });
  const content = await db.iterator().all();
  await db.close();
  return content;
}

test("[CL30] import y-leveldb moves a directory over, and may be repeated", async () => {
  const location = join(await temporaryDirectory(), "data");
  const args = ["import", "y-leveldb", source, "--store", `level:${location}`];
  const made = `note: there was no store at level:${location}; a new one was made\n`;
  const before = await contentOf(source);
  expect(before.length).toBeGreaterThan(6);
  expect(await coppice(args)).toEqual({
    code: 0,
    stdout: "imported 2 of 2 documents (6 updates)\n",
    stderr: made,
  });
  expect((await coppice(args)).stdout).toBe("imported 0 of 2 documents (0 updates), 2 were there already\n");
  expect(await contentOf(source)).toEqual(before);
  const storage = await openStore(location);
  expect((await storage.load<Doc>("notes"))?.doc.getText("text").toString()).toBe("hello");
  await storage.close();
  const lines = jsonLines((await coppice([...args, "--json"])).stdout);
  expect(lines).toMatchObject([
    { id: "more", outcome: "present", updates: 1 },
    { id: "notes", outcome: "present", updates: 5, metas: 1 },
    { documents: 2, present: 2, failed: 0, failures: [], created: false },
  ]);
});

test("[CL169] rm and erase take the metas of y-leveldb along, also where nothing else is there", async () => {
  const location = join(await temporaryDirectory(), "data");
  const url = `level:${location}`;
  await coppice(["import", "y-leveldb", source, "--store", url]);
  const storage = await openStore(location);
  const long = "x".repeat(LIMITS.idBytesMax);
  await storage.append(long, [keystrokes("x")[0]!]);
  for (const id of ["notes", "gone", "more"]) await storage.fork(metaId("notes"), metaId(`${id}-2`));
  await storage.fork("notes", "notes-2");
  await storage.close();
  const removed = await coppice(["rm", "more", "notes-2", "gone-2", long, "--yes", "--store", url]);
  expect(removed).toMatchObject({
    code: 0,
    stdout: `removed more\nremoved notes-2 and its metas\nremoved the metas of gone-2\nremoved ${long}\n`,
  });
  const erased = await coppice([
    "erase",
    "notes",
    "gone-2",
    "never",
    long,
    "--yes",
    "--json",
    "--store",
    url,
  ]);
  expect(erased.code).toBe(3);
  expect(JSON.parse(erased.stdout)).toEqual({
    erased: [
      { id: "notes", existed: true, keys: expect.any(Number) },
      { id: "gone-2", existed: false, keys: 0 },
      { id: "never", existed: false, keys: 0 },
      { id: long, existed: false, keys: 1 },
    ],
    metas: ["notes", "gone-2"],
    reclaimed: true,
  });
  const left = jsonLines((await coppice(["ls", "--json", "--store", url])).stdout);
  expect(left).toMatchObject([{ id: metaId("more-2") }]);
});

test("[CL178] erase that fails after the metas of a document tells them, and rewrites the files", async () => {
  const location = join(await temporaryDirectory(), "data");
  const url = `level:${location}`;
  await coppice(["import", "y-leveldb", source, "--store", url]);
  await makeNewer(location, "notes");
  const erase = (...more: string[]) => coppice(["erase", "notes", "more", "--yes", "--store", url, ...more]);
  const { code, stdout, stderr } = await erase();
  expect([code, stdout, stderr.includes("note:")]).toEqual([1, "erased the metas of notes\n", false]);
  expect(await filesHolding(location, new TextEncoder().encode(metaId("notes")))).toEqual([]);
  const none = { erased: [], metas: [], reclaimed: false };
  expect(JSON.parse((await erase("--json")).stdout)).toEqual(none);
});

test("[CL150] an id that is percent-encoded is told of, and a fork under the decoded one has its text", async () => {
  const directory = await temporaryDirectory();
  const old = join(directory, "old");
  const theirs = new LeveldbPersistence(old);
  for (const name of ["a%20room", "caf%C3%A9", "100%"]) await theirs.storeUpdate(name, keystrokes("x")[0]!);
  await theirs.destroy();
  const location = join(directory, "data");
  const args = ["import", "y-leveldb", old, "--store", `level:${location}`];
  const { code, stderr } = await coppice(args);
  expect([code, stderr]).toEqual([
    0,
    `note: there was no store at level:${location}; a new one was made\n` +
      "note: 2 ids are percent-encoded, as a%20room; coppice serve looks for a room:" +
      " see docs/coming-from-y-leveldb.md\n",
  ]);
  const json = await coppice([...args, "--json"]);
  expect(json.stderr).toBe("");
  const lines = jsonLines(json.stdout);
  expect(lines.map(({ id, decoded }) => [id, decoded])).toEqual([
    ["100%", undefined],
    ["a%20room", "a room"],
    ["caf%C3%A9", "café"],
    [undefined, undefined],
  ]);
  expect(lines.at(-1)).toMatchObject({ documents: 3, percentEncoded: 2 });
  expect((await coppice(["fork", "a%20room", "a room", "--store", `level:${location}`])).code).toBe(0);
  const storage = await openStore(location);
  expect((await storage.load<Doc>("a room"))?.doc.getText("text").toString()).toBe("x");
  await storage.close();
});

test('[CL151] a document without a name does not move, is shown as "", and ends the import with 1', async () => {
  const directory = await temporaryDirectory();
  const old = join(directory, "old");
  const theirs = new LeveldbPersistence(old);
  for (const name of ["", "notes"]) await theirs.storeUpdate(name, keystrokes("x")[0]!);
  await theirs.destroy();
  expect(
    await coppice(["import", "y-leveldb", old, "--store", `level:${join(directory, "data")}`]),
  ).toMatchObject({
    code: 1,
    stdout: "imported 1 of 2 documents (1 update)\n",
    stderr: expect.stringContaining('failed "": a document id must not be empty\n'),
  });
});

test("[CL162] import y-leveldb --json counts all that failed, and lists 100 of them, as compact and copy do", async () => {
  const directory = await temporaryDirectory();
  const [old, data] = [join(directory, "old"), join(directory, "data")];
  const theirs = new LeveldbPersistence(old);
  const ids = Array.from({ length: 101 }, (_, index) => `doc-${index + 100}`);
  for (const id of ids) await theirs.storeUpdate(id, keystrokes("x")[0]!);
  await theirs.destroy();
  const args = ["import", "y-leveldb", old, "--json", "--store", `level:${data}`];
  expect((await coppice(args)).code).toBe(0);
  const storage = await openStore(data);
  for (const id of ids) await storage.delete(id);
  await storage.close();
  const { code, stdout } = await coppice(args);
  const { problems, failed, failures } = jsonLines(stdout).at(-1) as Record<string, unknown[]>;
  expect([code, problems, failed, failures!.length]).toEqual([1, undefined, 101, 100]);
  const message = "it was deleted from this store";
  expect(failures![0]).toEqual({ id: ids[0], outcome: "failed", code: "DELETED", message });
});

test("[CL31] a directory that y-leveldb wrote is no empty store, and is left as it is", async () => {
  const before = await contentOf(source);
  const store = ["--store", `level:${source}`];
  for (const args of [["ls"], ["check"], ["serve", "--port", "0"]]) {
    const { code, stdout, stderr } = await coppice([...args, ...store]);
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toContain("coppice import y-leveldb");
    expect(stderr).toContain("Nothing was written.");
  }
  expect(await contentOf(source)).toEqual(before);
});

test("[CL73] import says its own help, what may have been meant, and that two directories are one", async () => {
  const help = await coppice(["import"]);
  expect([help.code, help.stdout]).toEqual([2, ""]);
  expect(help.stderr).toContain("Usage: coppice import [options] [command]");
  const meant = await coppice(["import", "notes.coppice", "--store", "level:./new"]);
  expect(meant.code).toBe(2);
  expect(meant.stderr).toContain("coppice import document notes.coppice");
  const misspelt = await coppice(["import", "yleveldb", "./dir", "--store", "level:./new"]);
  expect([misspelt.code, misspelt.stderr]).toEqual([
    2,
    expect.stringContaining("yleveldb is\ncoppice import document ./dir, or coppice import y-leveldb ./dir?"),
  ]);
  const same = await coppice(["import", "y-leveldb", `${source}/`, "--store", `level:${source}`]);
  expect([same.code, same.stderr.includes("and these are one")]).toEqual([2, true]);
});

test("[CL160] hints lead to what there is: for repair, data of automerge-repo, and documents that were deleted", async () => {
  for (const args of [["repair"], ["repair", "--store", "level:./none"], ["help", "repair"]])
    expect([args, await coppice(args)]).toMatchObject([
      args,
      { code: 2, stderr: expect.stringMatching(/\n`coppice check --repair` mends a store; .*\n$/) },
    ]);
  const automerge = await coppice(["import", "automerge-repo", "./data"]);
  expect([automerge.code, automerge.stderr]).toEqual([
    2,
    expect.stringContaining(
      "\nNo command moves such data, a program does: see docs/coming-from-automerge-repo.md\n",
    ),
  ]);
  const directory = await temporaryDirectory();
  const [here, there] = ["here", "there"].map(
    (name) => ["--store", `level:${join(directory, name)}`] as const,
  );
  const file = join(directory, "notes.coppice");
  for (const store of [here!, there!]) await coppice(["import", "y-leveldb", source, ...store]);
  expect((await coppice(["rm", "notes", "--yes", ...here!])).code).toBe(0);
  const again = await coppice(["import", "y-leveldb", source, ...here!]);
  expect([again.code, again.stderr]).toEqual([
    1,
    expect.stringMatching(/^failed notes: it was deleted from this store\nwhat was deleted is not begun /m),
  ]);
  // As it says.
  expect((await coppice(["export", "notes", file, ...there!])).code).toBe(0);
  const refused = await coppice(["import", "document", file, ...here!]);
  expect([refused.code, refused.stderr]).toEqual([
    1,
    'coppice: "notes" was deleted\nThe id was used before: --recreate takes it again.\n',
  ]);
  expect((await coppice(["import", "document", file, "--recreate", ...here!])).code).toBe(0);
});

test("[CL72] a failed import says that it has made a new store", async () => {
  const directory = await temporaryDirectory();
  const args = ["import", "document", "-", "--store", `level:${join(directory, "new")}`];
  const piped = async () => {
    const { child, ended } = await start(args);
    child.stdin?.end("no export");
    return ended;
  };
  const first = await piped();
  expect([first.code, first.stderr.includes("a new one was made")]).toEqual([1, true]);
  const second = await piped();
  expect([second.code, second.stderr.includes("a new one was made")]).toEqual([1, false]);
});

test("[CL164] a file that is no export is exit code 1, and no sign of a damaged store", async () => {
  const directory = await temporaryDirectory();
  const file = join(directory, "hostname");
  await writeFile(file, "example\n");
  const location = join(directory, "data");
  const into = (...more: string[]) =>
    coppice(["import", "document", file, "-s", `level:${location}`, ...more]);
  const hint = "\nName a file that `coppice export` wrote, or export the document again.\n";
  const none = await into();
  expect([none.code, none.stderr.endsWith(hint)]).toEqual([1, true]);
  await (await openStore(location)).close();
  const { code, stderr } = await into("--json");
  expect([code, JSON.parse(stderr)]).toMatchObject([1, { error: { code: "EXPORT_INVALID" } }]);
});

test("[CL161] a source that is missing, refused or empty makes no new store", async () => {
  const directory = await temporaryDirectory();
  const [from, file, cut] = ["from", "notes.coppice", "cut.coppice"].map((name) => join(directory, name));
  const fromStore = ["--store", `level:${from}`];
  const target = join(directory, "new");
  const store = ["--store", `level:${target}`];
  await coppice(["import", "y-leveldb", source, ...fromStore]);
  expect((await coppice(["export", "notes", file!, ...fromStore])).code).toBe(0);
  await writeFile(cut!, (await readFile(file!)).subarray(0, -5));
  for (const args of [
    ["import", "document", cut!],
    ["import", "document", join(directory, "none")],
  ])
    expect([args, (await coppice([...args, ...store])).code]).toEqual([args, args.includes(cut!) ? 1 : 3]);
  // No directory of y-leveldb, and none at all.
  const none = await coppice(["import", "y-leveldb", from!, ...store]);
  expect([none.code, none.stderr]).toEqual([
    3,
    expect.stringContaining("holds no documents of y-leveldb\nName the directory that"),
  ]);
  expect((await coppice(["import", "y-leveldb", join(directory, "none"), ...store])).code).toBe(3);
  expect(existsSync(target)).toBe(false);
  expect(await coppice(["import", "document", file!, ...store])).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/^imported notes at clock \d+\n$/),
  });
});

test("[CL30] what does not move is said, and decides the exit code", async () => {
  const location = join(await temporaryDirectory(), "data");
  const none = ["import", "y-leveldb", join(location, "nowhere"), "--store", `level:${location}`];
  expect((await coppice(none)).code).toBe(3);
  expect((await coppice(["import", "y-leveldb"])).code).toBe(2);
  const held = new LeveldbPersistence(source);
  await held.getAllDocNames();
  const args = ["import", "y-leveldb", source, "--store", `level:${location}`];
  expect((await coppice(args)).code).toBe(4);
  await held.destroy();

  const damaged = new ClassicLevel<string, Uint8Array>(source, { valueEncoding: "buffer" });
  const key = Buffer.from([
    0,
    2,
    ...Buffer.from("v1"),
    0,
    5,
    ...Buffer.from("notes"),
    0,
    6,
    ...Buffer.from("update"),
  ]);
  const clock = Buffer.from([1, 0, 0, 0, 99]);
  await damaged.put(Buffer.concat([key, clock]) as unknown as string, Buffer.from([9]), {
    keyEncoding: "buffer",
  });
  await damaged.close();
  const { code, stdout, stderr } = await coppice(args);
  expect(code).toBe(5);
  expect(stdout).toContain("imported 1 of 2 documents (6 updates)\n");
  expect(stderr).toContain("damaged notes: update 99: ");
  const storage = await openStore(location);
  expect((await storage.load<Doc>("notes"))?.doc.getText("text").toString()).toBe("hello");
  await storage.close();
});
