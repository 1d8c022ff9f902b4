/** Commands on a store whose disk is really full: a small one is mounted, which only root may do. */

import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileLogBackend } from "@coppice/file";
import { yjs } from "@coppice/yjs";
import { DocumentStorage } from "coppice";
import { afterAll, beforeAll, expect, test } from "vitest";
import * as Y from "yjs";
import { cleanUp, coppice, jsonLines, keystrokes, temporaryDirectory } from "./command.js";

const mayMount = process.platform === "linux" && process.getuid?.() === 0 && existsSync("/usr/bin/mount");
let disk = "";

beforeAll(async () => {
  if (!mayMount) return;
  disk = join(await temporaryDirectory(), "disk");
  await mkdir(disk);
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=8m", "tmpfs", disk]);
});
afterAll(async () => {
  if (disk !== "") execFileSync("umount", [disk]);
  await cleanUp();
});

/** Appends until there is no room for the next segment. Resolves with why it could not be closed, if so. */
async function fillStore(location: string): Promise<unknown> {
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
  return storage.close().catch((error: unknown) => error);
}

test("[CL156] what only reads works on a file log whose disk is full, and leaves it as it is", async (context) => {
  context.skip(!mayMount, "a small disk is mounted by root on Linux");
  const location = join(disk, "log");
  expect(await fillStore(location)).toMatchObject({ code: "UNAVAILABLE", details: { location } });
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
  expect(await on("tag", "notes", "v1")).toMatchObject({
    code: 1,
    stderr: expect.stringContaining("ENOSPC"),
  });
  expect(await on("check", "--repair")).toMatchObject({ code: 1, stderr: expect.stringContaining("ENOSPC") });
  expect(await readdir(location)).toEqual(before);
});
