/** The command line on a file log: looking, checking, mending, and listing its frames. */

import { chmod, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileLogBackend } from "@coppice/file";
import { yjs } from "@coppice/yjs";
import { DocumentStorage, never } from "coppice";
import { afterAll, expect, test } from "vitest";
import { cleanUp, coppice, jsonLines, keystrokes, openStore, temporaryDirectory } from "./command.js";

afterAll(cleanUp);

async function openStorage(location: string): Promise<DocumentStorage> {
  return DocumentStorage.open({ backend: fileLogBackend(location), models: [yjs()], snapshotPolicy: never });
}

async function makeStore(): Promise<{ location: string; url: string }> {
  const location = join(await temporaryDirectory(), "log");
  const storage = await openStorage(location);
  for (const event of keystrokes("hello")) {
    for (const id of ["notes/a", "notes/b"]) await storage.append(id, [event]);
  }
  await storage.close();
  return { location, url: `file:${location}` };
}

/** Flips a bit in the batch of `notes/a` at a clock. */
async function damageBatch(url: string, location: string, clock: number) {
  const frames = jsonLines((await coppice(["frames", "-s", url, "--json"])).stdout) as {
    position: number;
    records: { key: unknown[] }[];
  }[];
  const hit = frames.find(({ records }) =>
    records.some(({ key }) => key[1] === "notes/a" && key[2] === clock),
  )!;
  const path = join(location, "00000001.seg");
  const bytes = await readFile(path);
  bytes[hit.position + 110]! ^= 1;
  await writeFile(path, bytes);
  return { path, bytes };
}

test("[CL50] a file log is a store like others: ls, info, compact, check, and an exit code when it is not there", async () => {
  const { url, location } = await makeStore();
  expect((await coppice(["ls", "-s", url])).stdout).toBe("notes/a\nnotes/b\n");
  expect((await coppice(["info", "notes/a", "-s", url])).code).toBe(0);
  expect((await coppice(["compact", "notes/a", "-s", url])).code).toBe(0);
  expect(await coppice(["check", "-s", url])).toMatchObject({ code: 0, stderr: "" });
  const none = await coppice(["ls", "-s", `${url}-none`]);
  expect(none.code).toBe(3);
  expect(await readdir(join(location, ".."))).toEqual(["log"]);
  const storage = await openStorage(location);
  expect((await coppice(["check", "-s", url])).code).toBe(4);
  expect((await coppice(["compact", "--all", "-s", url])).code).toBe(4);
  await storage.close();
});

test("[CL50] frames lists the commits, also beside the process that has the store open", async () => {
  const { url, location } = await makeStore();
  const storage = await openStorage(location);
  const shown = await coppice(["frames", "-s", url]);
  expect(shown.code).toBe(0);
  expect(shown.stdout).toMatch(/^commit 1: 00000001\.seg at 4,096, \d+ bytes, 2 records\n {2}put {4}/);
  const frames = jsonLines((await coppice(["frames", "-s", url, "--json"])).stdout) as { sequence: number }[];
  expect(frames.map(({ sequence }) => sequence)).toEqual(frames.map((_, i) => i + 1));
  await storage.close();
  expect((await coppice(["frames", "-s", "memory:"])).code).toBe(2);
});

test("[CL75] what only reads works beside the process that has a file log open, and sees what it commits", async () => {
  const { url, location } = await makeStore();
  const storage = await openStorage(location);
  await storage.append("notes/a", [keystrokes("!")[0]!]);
  await storage.tag("notes/a", "v1");
  const before = await readdir(location);
  const on = async (...args: string[]) => coppice([...args, "-s", url]);
  expect((await on("ls", "--long")).stdout).toMatch(/^notes\/a +\S+ +6 /m);
  expect((await on("info", "notes/a")).stdout).toMatch(/^clock +6 /m);
  expect(jsonLines((await on("read", "notes/a")).stdout)).toHaveLength(6);
  expect((await on("history", "notes/a")).stdout.split("\n")).toHaveLength(9);
  expect((await on("tags", "notes/a")).stdout).toMatch(/^v1 +6 /m);
  expect((await on("dump", "notes/a")).stdout).toMatch(/^events +notes\/a +5 /m);
  expect((await on("export", "notes/a", join(location, "..", "a.coppice"))).code).toBe(0);
  expect((await on("graph", "notes/a")).stderr).toContain("is no event graph");
  expect(await on("tag", "notes/a", "v2")).toMatchObject({ code: 4 });
  expect(await readdir(location)).toEqual(before);
  await storage.append("notes/a", [keystrokes("?")[0]!]);
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
});

/** Root may write everywhere, so it goes on as another user. `undefined` where the command cannot be run so. */
async function otherUser(): Promise<{ uid?: number; cwd?: string } | undefined> {
  const uid = process.getuid?.() === 0 ? 65_534 : process.getuid?.();
  const other = uid === undefined ? {} : { uid, cwd: "/" };
  const works = await coppice(["--version"], other).catch(() => undefined);
  return works?.code === 0 ? other : undefined;
}

async function makeReadOnly(location: string): Promise<void> {
  await chmod(join(location, ".."), 0o755);
  for (const name of await readdir(location)) await chmod(join(location, name), 0o444);
  await chmod(location, 0o555);
}

test("[CL75] what only reads works on a file log that this user may not write", async (context) => {
  const { url, location } = await makeStore();
  const other = await otherUser();
  context.skip(other === undefined, "the command cannot be run as another user");
  await makeReadOnly(location);
  const before = await readdir(location);
  const on = (...args: string[]) => coppice([...args, "-s", url], other);
  for (const args of [["ls"], ["info", "notes/a"], ["read", "notes/a"], ["tags", "notes/a"], ["dump"]])
    expect([args, await on(...args)]).toMatchObject([args, { code: 0, stderr: "" }]);
  expect((await on("tag", "notes/a", "v2")).code).toBe(1);
  await chmod(location, 0o755);
  expect(await readdir(location)).toEqual(before);
});

test("[CL166] who may not do it is told whose it is, and who asks", async (context) => {
  const other = await otherUser();
  const isRoot = process.getuid?.() === 0;
  context.skip(
    other === undefined || !isRoot,
    "what belongs to root is made by root, and refused to another",
  );
  const { location, url } = await makeStore();
  const level = join(location, "..", "level");
  await (await openStore(level)).close();
  await chmod(join(location, ".."), 0o755);
  await chmod(location, 0o700);
  for (const [store, place] of [
    [url, location],
    [`level:${level}`, join(level, "LOCK")],
    [`level:${join(location, "deep", "new")}`, location],
  ]) {
    const { code, stderr } = await coppice(["check", "-s", store!], other);
    const told = `${place} belongs to root, and this process runs as `;
    expect([store, code, stderr.split("\n")[1]]).toEqual([store, 1, expect.stringContaining(told)]);
    expect(stderr).toMatch(
      /runs as \S+: run it as that user, or give it the right\.\n$|runs as user \d+: run/,
    );
    const json = await coppice(["ls", "-s", store!, "--json"], other);
    expect(JSON.parse(json.stderr).error.details, store).toMatchObject({ system: "EACCES" });
  }
});

test("[CL157] check of a file log that this user may not write checks its documents, and says what it leaves out", async (context) => {
  const { url, location } = await makeStore();
  const other = await otherUser();
  context.skip(other === undefined, "the command cannot be run as another user");
  await makeReadOnly(location);
  const before = await readdir(location);
  const checked = await coppice(["check", "-s", url], other);
  expect(checked).toEqual({
    code: 0,
    stdout: "ok 2 documents, 10 events\n",
    stderr: expect.stringMatching(/^note: file:.* cannot be written, and its lock cannot be taken: .*\n$/),
  });
  expect((await coppice(["check", "--repair", "-s", url], other)).code).toBe(1);
  const path = join(location, "00000001.seg");
  const bytes = await readFile(path);
  for (let at = 4_096 + 100; at < bytes.length; at += 50) bytes[at]! ^= 1;
  await chmod(path, 0o644);
  await writeFile(path, bytes);
  expect((await coppice(["check", "-s", url], other)).code).toBe(5);
  await chmod(location, 0o755);
  expect(await readdir(location)).toEqual(before);
});

test("[CL51] check finds damaged frames, --repair sets the file aside, and says which documents lost what", async () => {
  const { url, location } = await makeStore();
  const { path, bytes } = await damageBatch(url, location, 2);
  expect((await coppice(["ls", "-s", url])).code).toBe(5);
  const found = await coppice(["check", "-s", url]);
  expect(found.code).toBe(5);
  expect(found.stdout).toContain("00000001.seg");
  expect(Buffer.compare(await readFile(path), bytes)).toBe(0);
  const json = jsonLines((await coppice(["check", "-s", url, "--json"])).stdout)[0];
  expect(json).toMatchObject({
    clean: false,
    fileLog: { repaired: false, damage: [{ file: "00000001.seg" }] },
  });
  const mended = await coppice(["check", "--repair", "-s", url]);
  expect(mended.code).toBe(1);
  expect(mended.stdout).toMatch(/^sound again, with losses: .* lost/m);
  expect(mended.stdout).toContain("quarantine-00000001-0.bin");
  expect(mended.stdout).toContain("notes/a");
  expect(Buffer.compare(await readFile(join(location, "quarantine-00000001-0.bin")), bytes)).toBe(0);
  expect((await coppice(["check", "-s", url])).code).toBe(0);
  const storage = await openStorage(location);
  expect((await storage.info("notes/b"))?.clock).toBe(5);
  await storage.close();
});

test("[CK21] a repair that lost the last batch of a document says so, and who goes on from the old clock is told", async () => {
  const { url, location } = await makeStore();
  const before = await openStorage(location);
  const { token } = (await before.info("notes/a"))!;
  await before.close();
  await damageBatch(url, location, 4);
  const mended = await coppice(["check", "--repair", "-s", url]);
  expect(mended.code).toBe(1);
  expect(mended.stdout).toMatch(/^documents in the damaged files: notes\/a, /m);
  expect(mended.stdout).toContain("one that lost its last\nevents ends earlier");
  expect(await coppice(["check", "-s", url])).toMatchObject({
    code: 0,
    stdout: "ok 2 documents, 9 events\n",
  });
  const storage = await openStorage(location);
  expect((await storage.info("notes/a"))?.clock).toBe(4);
  const beyond = { code: "ARGUMENT_INVALID", details: { clock: 5, head: 4 } };
  await expect(storage.subscribe("notes/a", { from: 5 }).next()).rejects.toMatchObject(beyond);
  const [event] = keystrokes("?");
  await expect(storage.append("notes/a", [event!], { expected: token })).rejects.toMatchObject({
    code: "HEAD_CONFLICT",
  });
  await storage.append("notes/a", [event!]);
  // The same clock, and another state.
  await expect(storage.append("notes/a", [event!], { expected: token })).rejects.toMatchObject({
    code: "HEAD_CONFLICT",
  });
  await storage.close();
});

test("[CL51] check says how many documents it has not named", async () => {
  const location = join(await temporaryDirectory(), "log");
  const storage = await openStorage(location);
  const event = keystrokes("x")[0]!;
  for (let i = 0; i < 25; i++) await storage.append(`d${i}`, [event]);
  await storage.close();
  const path = join(location, "00000001.seg");
  const bytes = await readFile(path);
  // Within the first commit, which lies behind the header.
  bytes[4096 + 80]! ^= 1;
  await writeFile(path, bytes);
  const found = await coppice(["check", "-s", `file:${location}`]);
  const [, named] = /documents in the damaged files: (.*), and \d more that `--json` names/.exec(
    found.stdout,
  )!;
  expect(named!.split(", ")).toHaveLength(20);
});

test("[CL51] check calls the hash that an erased document leaves what it is", async () => {
  const { url, location } = await makeStore();
  expect((await coppice(["erase", "notes/a", "--yes", "-s", url])).code).toBe(0);
  const names = (await readdir(location)).filter((name) => name.endsWith(".seg"));
  for (const name of names) {
    const bytes = await readFile(join(location, name));
    if (bytes.length > 4096 + 80) bytes[4096 + 80]! ^= 1;
    await writeFile(join(location, name), bytes);
  }
  const { stdout } = await coppice(["check", "-s", url]);
  expect(stdout).toMatch(/^documents in the damaged files: .*\b[0-9a-f]{64} \(an erased document, /m);
});

test("[CL51] check --repair makes a lost manifest again", async () => {
  const { url, location } = await makeStore();
  await writeFile(join(location, "MANIFEST"), "nothing");
  expect((await coppice(["ls", "-s", url])).code).toBe(5);
  expect((await coppice(["check", "--repair", "-s", url])).code).toBe(0);
  expect((await coppice(["ls", "-s", url])).stdout).toBe("notes/a\nnotes/b\n");
});

test("[CL51] check --repair calls a segment that is gone lost, and says that its documents are named nowhere", async () => {
  const { url, location } = await makeStore();
  await rm(join(location, "00000001.seg"));
  const mended = await coppice(["check", "--repair", "-s", url]);
  expect(mended.stdout).toMatch(/^lost +00000001\.seg.*is missing$/m);
  expect(mended.stdout).not.toContain("repaired");
  expect(mended.stdout).toContain("compare with a backup");
  expect(mended.stdout).toMatch(/^sound again, perhaps with losses: 0 documents/m);
  expect(mended.code).toBe(1);
  const again = await coppice(["check", "--repair", "-s", url]);
  expect([again.code, again.stdout]).toEqual([0, "ok 0 documents, 0 events\n"]);
});

test("[CL76] copy takes a file log beside the process that has it open, and then what that one has appended", async () => {
  const { url, location } = await makeStore();
  const target = `level:${join(location, "../copy")}`;
  const storage = await openStorage(location);
  const before = await readdir(location);
  expect((await coppice(["copy", url, target])).stdout).toContain("2 copied");
  await storage.append("notes/a", [keystrokes("!")[0]!]);
  expect((await coppice(["copy", url, target])).stdout).toContain("1 updated, 1 unchanged");
  expect((await coppice(["info", "notes/a", "--json", "-s", target])).stdout).toContain('"clock":6');
  // The target is written to, so it is another matter.
  expect((await coppice(["copy", target, url])).code).toBe(4);
  expect(await readdir(location)).toEqual(before);
  await storage.close();
});
