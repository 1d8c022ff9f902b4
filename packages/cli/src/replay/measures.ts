/**
 * Small measurements of a replay: bytes on disk, bytes kept, loading from a fresh storage, percentiles. They
 * judge nothing and print nothing.
 */

import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import type { StoreOptions } from "../options.js";
import type { Runtime } from "../runtime.js";
import { withStorage } from "../store.js";
import { TEXT_NAME } from "./typing.js";

/** Bytes of the files of a directory; 0 when there is none. Taken while no process has the store open. */
export async function directoryBytes(location: string): Promise<number> {
  const names = await readdir(location).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
  const sizes = await Promise.all(names.map(async (name) => (await stat(join(location, name))).size));
  return sizes.reduce((sum, size) => sum + size, 0);
}

/** Payload bytes that are kept of a document: its batches and its snapshots. */
export async function keptBytes(runtime: Runtime, options: StoreOptions, id: string): Promise<number> {
  return withStorage(runtime, options, async (storage) => {
    let bytes = 0;
    for await (const entry of storage.history(id)) bytes += entry.bytes;
    return bytes;
  });
}

export interface ColdLoad {
  /** Median of three loads, each by a storage that was just opened. */
  readonly ms: number;
  readonly text: string;
}

/** Times `load` alone: the storage is open by then, and nothing of the document is in its memory. */
export async function coldLoad(runtime: Runtime, options: StoreOptions, id: string): Promise<ColdLoad> {
  const times: number[] = [];
  let text = "";
  for (let run = 0; run < 3; run++) {
    await withStorage(runtime, options, async (storage) => {
      const started = performance.now();
      const handle = await storage.load<LoadedDoc>(id);
      times.push(performance.now() - started);
      text = handle?.doc.getText(TEXT_NAME).toString() ?? "";
      await handle?.close();
    });
  }
  return { ms: percentile(times, 0.5), text };
}

/** What is used of a Yjs document. */
export interface LoadedDoc {
  getText(name: string): { toString(): string };
}

/** The value below which a share of the values lies; 0 without values. */
export function percentile(values: readonly number[] | Float32Array, share: number): number {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
}

export function joined(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let end = 0;
  for (const part of parts) {
    all.set(part, end);
    end += part.length;
  }
  return all;
}
