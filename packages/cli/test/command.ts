/**
 * The real command in a process of its own, and real LevelDB stores for it. Everything made here is removed by
 * `cleanUp`, which also ends children that are still alive.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { levelBackend } from "@coppice/level";
import { yjs } from "@coppice/yjs";
import { crc32, DocumentStorage, type Entry, encodeKey, never, type Range, systemEnv } from "coppice";
import * as Y from "yjs";
import { bundleChild } from "../../../test/support/child.js";

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Started {
  readonly child: ChildProcess;
  readonly ended: Promise<Outcome>;
  /** What it wrote so far, stdout and stderr as they came. */
  readonly seen: () => string;
  /** Resolves when it wrote this. Rejects with all that it wrote when it ended without. */
  readonly says: (text: string) => Promise<void>;
}

export interface RunOptions {
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly cwd?: string;
  /** As another user, which only root can. */
  readonly uid?: number;
}

const ENTRY = fileURLToPath(new URL("../src/main.ts", import.meta.url));
const made: string[] = [];
const children = new Set<ChildProcess>();

export function entry(): Promise<string> {
  return bundleChild(ENTRY);
}

export async function start(args: readonly string[], options: RunOptions = {}): Promise<Started> {
  return watch(spawn(process.execPath, [await entry(), ...args], spawnOptions(options)));
}

/** Runs `coppice` to its end, without a terminal. */
export async function coppice(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  return (await start(args, options)).ended;
}

/** Why no terminal can be had here; `undefined` when it can. */
export const noTerminalReason: string | undefined =
  process.platform === "linux" && existsSync("/usr/bin/script")
    ? undefined
    : "script(1) of util-linux, which makes terminals, is not installed";

/** Like `start`, on a terminal of 100 columns that stdin, stdout and stderr share. */
export async function startOnTerminal(args: readonly string[], options: RunOptions = {}): Promise<Started> {
  const words = [process.execPath, await entry(), ...args].map(
    (word) => `'${word.replaceAll("'", "'\\''")}'`,
  );
  const command = `stty cols 100; exec ${words.join(" ")}`;
  return watch(spawn("/usr/bin/script", ["-qec", command, "/dev/null"], spawnOptions(options)));
}

function spawnOptions({ env, cwd, uid }: RunOptions) {
  const clean = { ...process.env, NO_COLOR: undefined, COPPICE_STORE: undefined, COPPICE_TRACES: undefined };
  return { env: { ...clean, TERM: "xterm", ...env }, cwd: cwd ?? tmpdir(), uid, stdio: "pipe" } as const;
}

function watch(child: ChildProcess): Started {
  children.add(child);
  let stdout = "";
  let stderr = "";
  let seen = "";
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
    seen += text;
  });
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
    seen += text;
  });
  const ended = new Promise<Outcome>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => {
      children.delete(child);
      resolve({ code, stdout, stderr });
    });
  });
  const says = async (text: string) => {
    await until(`it says "${text}"`, () => seen.includes(text) || !children.has(child));
    if (!seen.includes(text)) throw new Error(`it ended without "${text}" and said: ${seen}`);
  };
  return { child, ended, seen: () => seen, says };
}

export async function temporaryDirectory(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "coppice-cli-"));
  made.push(path);
  return path;
}

export async function cleanUp(): Promise<void> {
  for (const child of children) child.kill("SIGKILL");
  for (const path of made.splice(0)) await rm(path, { recursive: true, force: true });
}

export interface TestStore {
  readonly location: string;
  readonly url: string;
}

/** A store that `fill` filled, closed again. Snapshots are taken only when asked for. */
export async function makeStore(
  fill: (storage: DocumentStorage) => Promise<unknown> = async () => undefined,
): Promise<TestStore> {
  const location = join(await temporaryDirectory(), "data");
  const storage = await openStore(location);
  await fill(storage);
  await storage.close();
  return { location, url: `level:${location}` };
}

export function openStore(location: string): Promise<DocumentStorage> {
  return DocumentStorage.open({ backend: levelBackend(location), models: [yjs()], snapshotPolicy: never });
}

/** Updates that type `text` into an empty document, a character each. */
export function keystrokes(text: string): Uint8Array[] {
  const doc = new Y.Doc();
  doc.clientID = 1;
  const updates: Uint8Array[] = [];
  doc.on("update", (update: Uint8Array) => updates.push(update));
  [...text].forEach((character, index) => {
    doc.getText("text").insert(index, character);
  });
  doc.destroy();
  return updates;
}

/** Flips one bit in the middle of every batch of a document, or of all of them; or of what another space has. */
export function damage(location: string, id?: string, space = "events"): Promise<void> {
  return change(location, id === undefined ? { space } : { space, id }, ({ value }) => {
    value[value.length >> 1]! ^= 1;
  });
}

/** Makes the meta of a document one of a newer version, which nothing touches. */
export function makeNewer(location: string, id: string): Promise<void> {
  return change(location, { space: "meta", id }, ({ key, value }) => {
    value[0] = 2;
    const end = value.length - 4;
    const sum = crc32(value.subarray(0, end), crc32(encodeKey(key)));
    new DataView(value.buffer).setUint32(end, sum, true);
  });
}

async function change(location: string, range: Range, edit: (entry: Entry) => void): Promise<void> {
  const backend = await levelBackend(location).open(systemEnv());
  for await (const page of backend.scan(range)) {
    for (const { key, value } of page) {
      const entry = { key, value: value.slice() };
      edit(entry);
      await backend.commit({ put: [entry] });
    }
  }
  await backend.close();
}

/** Takes values out of a store, as a repair of its files does with what damage hit. */
export async function removeKeys(location: string, range: { space: string; id: string }): Promise<void> {
  const backend = await levelBackend(location).open(systemEnv());
  await backend.commit({ delete: [range] });
  await backend.close();
}

export async function fileBytes(location: string): Promise<number> {
  let bytes = 0;
  for (const name of await readdir(location)) {
    bytes += await stat(join(location, name)).then(
      ({ size }) => size,
      () => 0,
    );
  }
  return bytes;
}

/** Resolves when the condition holds; rejects after a minute, since the machine may be busy. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 60_000;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`never happened: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export function jsonLines(text: string): Record<string, unknown>[] {
  return text
    .trimEnd()
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}
