/**
 * The manifest: the one file that names the segments of a store, in the order in which they are replayed.
 * It is replaced as a whole (written beside, synced, renamed, names synced), so there is always exactly
 * one.
 *
 * | line | holds                                                                   |
 * | ---- | ----------------------------------------------------------------------- |
 * | 1    | `coppice-file-log 1 ` and the CRC-32 of line 2 in 8 hexadecimal digits    |
 * | 2    | a JSON object, see `Manifest`                                            |
 *
 * Invariants: all segments but the last are sealed, and end exactly at `end`; the last one is at least as
 * long as its `end` says. Segment numbers are never used twice. A missing manifest beside segments is
 * damage.
 */

import { CoppiceError, crc32 } from "coppice";
import { isFull, type OpenFile, readFully, type StoreFiles, writeFully } from "./files.js";

export const MANIFEST = "MANIFEST";
const NEXT_MANIFEST = "MANIFEST.next";
const MANIFEST_BYTES_MAX = 64 * 1024 * 1024;
const HEAD = "coppice-file-log";
const FORMAT = 1;

export interface SegmentRow {
  readonly number: number;
  /** A merged segment holds records of several older ones, and takes their place in the order. */
  readonly kind: "log" | "merged";
  /** The size of the file. */
  readonly bytes: number;
  readonly salt: number;
  /** Where the frames end (of the last segment: are known to have reached), and the chain there. */
  readonly end: number;
  readonly chain: number;
}

export interface Manifest {
  readonly format: number;
  /** 16 random bytes in hexadecimal: segments of another store are refused. */
  readonly store: string;
  readonly generation: number;
  readonly nextNumber: number;
  /** Number of the last commit that is known to be durable. */
  readonly sequence: number;
  /**
   * Whether each commit was synced: only then is a hole in the log damage, and not the mark of a power
   * loss.
   */
  readonly syncs: boolean;
  readonly segments: readonly SegmentRow[];
}

/** The disk has no room for the next manifest: the one before is the durable one, and nothing has changed. */
export class NoRoomForManifest extends Error {
  readonly code = "ENOSPC";
}

/**
 * Resolves when this manifest, and no other, is the durable one. After a rejection either may be, but for a
 * `NoRoomForManifest`.
 */
export async function writeManifest(files: StoreFiles, manifest: Manifest): Promise<void> {
  const body = Buffer.from(`${JSON.stringify(manifest)}\n`);
  const sum = crc32(body).toString(16).padStart(8, "0");
  const bytes = Buffer.concat([Buffer.from(`${HEAD} ${FORMAT} ${sum}\n`), body]);
  if ((await files.list()).includes(NEXT_MANIFEST)) await files.remove(NEXT_MANIFEST);
  const file = await writeNext(files, bytes);
  try {
    await file.sync();
  } finally {
    file.close();
  }
  await files.rename(NEXT_MANIFEST, MANIFEST);
  await files.syncNames();
}

async function writeNext(files: StoreFiles, bytes: Uint8Array): Promise<OpenFile> {
  let file: OpenFile | undefined;
  try {
    file = await files.open(NEXT_MANIFEST, "create");
    await writeFully(file, bytes, bytes.length, 0);
    return file;
  } catch (error) {
    file?.close();
    if (!isFull(error)) throw error;
    await files.remove(NEXT_MANIFEST).catch(() => undefined);
    throw new NoRoomForManifest("the disk has no room for another manifest", { cause: error });
  }
}

/** Rejects with `CORRUPT` or `FORMAT_UNSUPPORTED`. */
export async function readManifest(files: StoreFiles): Promise<Manifest> {
  const file = await files.open(MANIFEST, "read");
  let bytes: Uint8Array;
  try {
    const size = await file.size();
    if (size > MANIFEST_BYTES_MAX) throw damaged("is too large");
    bytes = await readFully(file, size, 0);
  } finally {
    file.close();
  }
  const end = bytes.indexOf(10);
  const [, format, sum] =
    /^coppice-file-log (\d{1,9}) ([0-9a-f]{8})$/.exec(text(bytes.subarray(0, end))) ?? [];
  if (end < 0 || format === undefined || sum === undefined) throw damaged("does not begin like one");
  const body = bytes.subarray(end + 1);
  if (crc32(body) !== Number.parseInt(sum, 16)) throw damaged("fails its checksum");
  if (Number(format) !== FORMAT) {
    if (formatOf(body) === FORMAT) throw damaged("says that it is of another format");
    throw new CoppiceError("FORMAT_UNSUPPORTED", "this file log was written by a newer version", {
      details: { format: Number(format), known: FORMAT },
    });
  }
  return checked(parsed(body));
}

/** As line 2 says it, which has a checksum; `undefined`: it is nothing that this version knows. */
function formatOf(body: Uint8Array): number | undefined {
  try {
    return (parsed(body) as Manifest | null)?.format;
  } catch {
    return undefined;
  }
}

function parsed(body: Uint8Array): unknown {
  try {
    return JSON.parse(text(body));
  } catch (error) {
    throw damaged("is no JSON", error);
  }
}

function checked(value: unknown): Manifest {
  const found = value as Manifest;
  const counts = [found?.generation, found?.nextNumber, found?.sequence];
  const whole =
    counts.every(isCount) &&
    /^[0-9a-f]{32}$/.test(String(found.store)) &&
    typeof found.syncs === "boolean" &&
    Array.isArray(found.segments) &&
    found.segments.every(isRow);
  if (!whole) throw damaged("lacks a field");
  return found;
}

function isRow(row: SegmentRow): boolean {
  const counts = [row?.number, row?.bytes, row?.salt, row?.end, row?.chain];
  return counts.every(isCount) && row.end <= row.bytes && (row.kind === "log" || row.kind === "merged");
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

function damaged(how: string, cause?: unknown): CoppiceError {
  return new CoppiceError("CORRUPT", `the manifest of the file log ${how}`, {
    cause,
    details: { file: MANIFEST },
  });
}
