/** Temporary directories and small helpers of the tests of backends on disk. Everything made here is removed after each test. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Backend, Entry, Range, ScanOptions } from "coppice";

const made: string[] = [];

export async function temporaryDirectory(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "coppice-store-"));
  made.push(path);
  return path;
}

export async function removeDirectories(): Promise<void> {
  for (const path of made.splice(0)) await rm(path, { recursive: true, force: true });
}

export async function entriesOf(backend: Backend, range: Range, options?: ScanOptions): Promise<Entry[]> {
  const entries: Entry[] = [];
  for await (const page of backend.scan(range, options)) entries.push(...page);
  return entries;
}

export function bytes(length: number, fill: number): Uint8Array {
  return new Uint8Array(length).fill(fill);
}
