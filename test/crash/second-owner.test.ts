/**
 * A second process that opens a store while the first has it: what it saves must not vanish without a word.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { LeveldbPersistence as Ours } from "@coppice/yjs/y-leveldb";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { LeveldbPersistence as Theirs } from "y-leveldb";
import * as Y from "yjs";
import { bundleChild } from "../support/child.js";

let folder: string;
let script: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "coppice-second-"));
  script = await bundleChild(fileURLToPath(new URL("children/second-owner.ts", import.meta.url)));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function whileOpen(whose: string, location: string, work: () => Promise<void>): Promise<void> {
  const child = spawn(process.execPath, [script, whose, location], { stdio: ["ignore", "pipe", "inherit"] });
  const ended = once(child, "exit");
  try {
    const [said] = await Promise.race([once(child.stdout, "data"), ended]);
    expect(String(said)).toBe("OPEN\n");
    await work();
  } finally {
    child.kill("SIGKILL");
    await ended;
  }
}

function update(text: string): Uint8Array {
  const doc = new Y.Doc();
  doc.getText("t").insert(0, text);
  return Y.encodeStateAsUpdate(doc);
}

test("[DI21] what a second process saves is refused with LOCKED; y-leveldb says stored and loses it", async () => {
  const ours = join(folder, "ours");
  await whileOpen("ours", ours, async () => {
    const second = new Ours(ours, { onError: () => undefined });
    await expect(second.storeUpdate("doc", update("second"))).rejects.toMatchObject({ code: "LOCKED" });
    await expect(second.getYDoc("doc")).rejects.toMatchObject({ code: "LOCKED" });
  });
  const after = new Ours(ours);
  expect((await after.getYDoc("doc")).getText("t").toString()).toBe("first");
  await after.destroy();

  const theirs = join(folder, "theirs");
  const quiet = vi.spyOn(console, "warn").mockImplementation(() => undefined);
  await whileOpen("theirs", theirs, async () => {
    const second = new Theirs(theirs);
    await expect(second.storeUpdate("doc", update("second"))).resolves.toBeNull();
    await expect(second.getYDoc("doc")).resolves.toBeNull();
  });
  quiet.mockRestore();
  const reopened = new Theirs(theirs);
  expect((await reopened.getYDoc("doc")).getText("t").toString()).toBe("first");
  await reopened.destroy();
});
