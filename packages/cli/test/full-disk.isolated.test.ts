/** Commands on a store whose disk is really full: a small one is mounted, which only root may do. */

import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readdir, stat, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileLogBackend } from "@coppice/file";
import { yjs } from "@coppice/yjs";
import { DocumentStorage, never } from "coppice";
import { afterAll, beforeAll, expect, test } from "vitest";
import * as Y from "yjs";
import { cleanUp, coppice, jsonLines, keystrokes, makeStore, temporaryDirectory } from "./command.js";

const mayMount = process.platform === "linux" && process.getuid?.() === 0 && existsSync("/usr/bin/mount");
const mounted: string[] = [];
let disk = "";

async function mount(size: string): Promise<string> {
  const path = join(await temporaryDirectory(), "disk");
  await mkdir(path);
  execFileSync("mount", ["-t", "tmpfs", "-o", `size=${size}`, "tmpfs", path]);
  mounted.push(path);
  return path;
}

beforeAll(async () => {
  if (mayMount) disk = await mount("8m");
});
afterAll(async () => {
  for (const path of mounted) execFileSync("umount", [path]);
  await cleanUp();
});

/** Appends until there is no room for the next segment, and closes it. */
async function fillStore(location: string): Promise<void> {
  const backend = fileLogBackend(location, { segmentBytesMax: 1024 * 1024 });
  const storage = await DocumentStorage.open({ backend, models: [yjs()] });
  await storage.append("notes", keystrokes("hello"));
  await writeFile(join(disk, "ballast"), Buffer.alloc(16 * 1024 * 1024)).catch(() => undefined);
  const append = async () => {
    const doc = new Y.Doc();
    doc.getText("text").insert(0, "x".repeat(100_000));
    await storage.append("notes", [Y.encodeStateAsUpdate(doc)]);
    return append();
  };
  await expect(append()).rejects.toMatchObject({ code: "STORE_FULL" });
  await storage.close();
}

test("[CL156] what only reads works on a file log whose disk is full, and leaves it as it is", async (context) => {
  context.skip(!mayMount, "a small disk is mounted by root on Linux");
  const location = join(disk, "log");
  await fillStore(location);
  const before = await readdir(location);
  const on = (...args: string[]) => coppice([...args, "-s", `file:${location}`]);
  expect(await on("ls")).toEqual({ code: 0, stdout: "notes\n", stderr: "" });
  const copy = join(await temporaryDirectory(), "notes.coppice");
  for (const args of [
    ["info", "notes"],
    ["tags", "notes"],
    ["show", "notes"],
    ["export", "notes", copy],
  ])
    expect([args, (await on(...args)).code]).toEqual([args, 0]);
  const [checked] = jsonLines((await on("check", "--json")).stdout);
  expect(checked).toMatchObject({ documents: 1, clean: true, fileLog: { damage: [] } });
  expect(await readdir(location)).toEqual(before);
  // What is left of the last segment takes what makes room.
  expect(await on("rm", "notes", "--yes")).toMatchObject({ code: 0, stderr: "" });
  expect(await on("check")).toMatchObject({ code: 0, stderr: "" });
});

test("[CL162] a copy to a full disk stops, and tells what failed in one line", async (context) => {
  context.skip(!mayMount, "a small disk is mounted by root on Linux");
  const small = await mount("3m");
  const { url } = await makeStore(async (storage) => {
    const appendAll = (from: number, to: number, events: Uint8Array[]) =>
      Promise.all(Array.from({ length: to - from }, (_, n) => storage.append(`doc-${from + n}`, events)));
    await appendAll(0, 500, keystrokes("x"));
    const doc = new Y.Doc();
    doc.getText("text").insert(0, "x".repeat(2000));
    const update = Y.encodeStateAsUpdate(doc);
    await appendAll(500, 2500, [update]);
  });
  const copy = (...args: string[]) => coppice(["copy", url, `file:${join(small, "log")}`, ...args]);
  const told = await copy();
  expect([told.code, told.stdout]).toEqual([1, expect.stringMatching(/^[\d,]+ ids: [\d,]+ copied, .*\n$/)]);
  expect(told.stderr).toMatch(/^failed \d\d documents: the disk has no room .*; the first: doc-\d+$/m);
  expect(told.stderr).toMatch(/^stopped: the target is full; .*\nMake room for it and repeat: .*$/m);
  expect(told.stderr.split("\n").length).toBeLessThan(6);
  const [line] = jsonLines((await copy("--json")).stdout);
  const { failed, failures, stopped } = line as { failed: number; failures: unknown[]; stopped: string };
  expect([stopped, failed]).toEqual(["full", failures.length]);
  expect(failures.length).toBeLessThan(40);
});

test("[CL171] a copy to a LevelDB store on a full disk tells what it has copied, and the next one goes on", async (context) => {
  context.skip(!mayMount, "a small disk is mounted by root on Linux");
  const small = await mount("3m");
  const { url } = await makeStore(async (storage) => {
    const doc = new Y.Doc();
    doc.getText("text").insert(0, "x".repeat(20_000));
    const update = Y.encodeStateAsUpdate(doc);
    await Promise.all(Array.from({ length: 200 }, (_, n) => storage.append(`doc-${100 + n}`, [update])));
  });
  const copy = (...args: string[]) => coppice(["copy", url, `level:${join(small, "backup")}`, ...args]);
  const first = await copy("--json");
  const [line] = jsonLines(first.stdout) as { copied: number; failed: number; stopped: string }[];
  expect([first.code, line?.stopped]).toEqual([1, "poisoned"]);
  expect(line!.copied).toBeGreaterThan(10);
  expect(line!.failed).toBeLessThan(5);
  execFileSync("mount", ["-o", "remount,size=30m", small]);
  const second = await copy();
  expect(second).toMatchObject({ code: 0, stderr: "" });
  expect(second.stdout).toContain(
    `200 ids: ${200 - line!.copied} copied, 0 updated, ${line!.copied} unchanged`,
  );
  expect((await coppice(["check", "-s", `level:${join(small, "backup")}`])).code).toBe(0);
});

test("[CL162] compact --all of a store on a full disk tries all, and lists some", async (context) => {
  context.skip(!mayMount, "a small disk is mounted by root on Linux");
  const small = await mount("8m");
  const location = join(small, "log");
  const backend = fileLogBackend(location, { segmentBytesMax: 1024 * 1024 });
  const storage = await DocumentStorage.open({ backend, models: [yjs()], snapshotPolicy: never });
  const events = keystrokes("hello");
  for (const event of events)
    await Promise.all(Array.from({ length: 300 }, (_, n) => storage.append(`doc-${n}`, [event])));
  await writeFile(join(small, "ballast"), Buffer.alloc(16 * 1024 * 1024)).catch(() => undefined);
  // What is left of the last segment.
  const fill = async (): Promise<void> => {
    await storage.append("fill", events.flatMap(() => keystrokes("y".repeat(200))).slice(0, 150));
    return fill();
  };
  await expect(fill()).rejects.toMatchObject({ code: "STORE_FULL" });
  await storage.close().catch(() => undefined);
  // Room for the manifest with which it is opened, and for no segment.
  const { size } = await stat(join(small, "ballast"));
  await truncate(join(small, "ballast"), size - 64 * 1024);
  const run = (...args: string[]) => coppice(["compact", "--all", "-s", `file:${location}`, ...args]);
  const json = await run("--json");
  const [line] = jsonLines(json.stdout);
  const { seen, failed, failures } = line as { seen: number; failed: number; failures: unknown[] };
  expect([json.code, seen, failures.length]).toEqual([1, 301, 100]);
  expect(failed).toBeGreaterThan(200);
  const told = await run();
  expect(told.stderr).toMatch(/^failed \d+ documents: .*; the first: \S+\n/);
  expect(told.stdout.split("\n")).toHaveLength(2);
});
