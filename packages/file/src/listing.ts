/**
 * The frames of a file log one after the other, for people who look at a store: where each lies, what its
 * records say. It keeps no writer out and changes nothing; beside a writer it shows what was there when each
 * segment was read.
 *
 * Invariant: bytes that are no whole frame are listed as damage, with their place, never left out.
 */

import { CoppiceError, decodeKey, type Key } from "coppice";
import { LOCK, nodeFiles, type OpenFiles, readFully, refused } from "./files.js";
import { DELETE_RANGE, PUT, type RecordView, rangeOf, readHeader, readRecords } from "./frame.js";
import { MANIFEST, readManifest, type SegmentRow } from "./manifest.js";
import { SEGMENT_HEADER_BYTES, segmentName } from "./segment.js";
import { findFrame, judgeTail } from "./tail.js";

export interface FrameRecord {
  readonly kind: "put" | "delete" | "delete-range";
  readonly key: Key;
  /** Of a put. */
  readonly valueBytes?: number;
  /** Of a range: `from ≤ seq < to`; -1 takes the key without a seq too. */
  readonly from?: number;
  readonly to?: number;
}

export interface ListedFrame {
  readonly file: string;
  readonly position: number;
  readonly bytes: number;
  /** `undefined`: damaged, or torn by a crash. */
  readonly sequence: number | undefined;
  readonly state: "whole" | "damaged" | "torn";
  readonly records: readonly FrameRecord[];
}

/**
 * Rejects with `UNAVAILABLE` when there is no store, or the file system refuses, and with `CORRUPT` when its
 * manifest is damaged.
 */
export async function* listFrames(
  directory: string,
  openFiles: OpenFiles = nodeFiles(directory, false),
): AsyncGenerator<ListedFrame> {
  const files = await openFiles(false).catch((cause: unknown) => {
    throw new CoppiceError("UNAVAILABLE", "there is no file log in this directory", { cause });
  });
  try {
    if (!(await files.list()).includes(MANIFEST)) {
      throw new CoppiceError("UNAVAILABLE", "there is no file log in this directory");
    }
    // So that nothing is written over the files that are open here.
    await files.share(LOCK);
    const { segments, syncs } = await readManifest(files);
    for (const [i, row] of segments.entries()) {
      const name = segmentName(row.number);
      const file = await files.open(name, "read").catch((cause: NodeJS.ErrnoException) => {
        if (cause.code !== "ENOENT") throw cause;
        const what = "a segment is missing, or was merged away while the frames were listed: list them again";
        throw new CoppiceError("UNAVAILABLE", what, { cause, details: { file: name } });
      });
      try {
        const raw = await readFully(file, await file.size(), 0);
        const bytes = Buffer.from(raw.buffer, raw.byteOffset, raw.length);
        yield* framesOf(bytes, row, { isLast: i === segments.length - 1, syncs });
      } finally {
        file.close();
      }
    }
  } catch (error) {
    throw refused(directory, error);
  } finally {
    files.close();
  }
}

function* framesOf(
  bytes: Buffer,
  { number, salt, end }: SegmentRow,
  { isLast, syncs }: { readonly isLast: boolean; readonly syncs: boolean },
): Generator<ListedFrame> {
  const file = segmentName(number);
  const limit = isLast ? bytes.length : end;
  for (let position = SEGMENT_HEADER_BYTES; position < limit; ) {
    const header = readHeader(bytes, position, position, salt);
    const records = header && readRecords(bytes, position, position, salt, header);
    if (header !== undefined && records !== undefined) {
      const shown = records.map((record) => recordOf(bytes, record));
      const { length, sequence } = header;
      yield { file, position, bytes: length, sequence, state: "whole", records: shown };
      position += length;
      continue;
    }
    const { kind, used } = judgeTail(bytes.subarray(0, limit), position, salt);
    if (kind === "clean") {
      const lost = end - position;
      if (lost > 0) yield { file, position, bytes: lost, sequence: undefined, state: "damaged", records: [] };
      return;
    }
    const next = findFrame(bytes, position + 8, limit, salt) ?? Math.max(used, end);
    // As opening takes it: what the manifest knows was whole once; and where commits are not synced, a hole
    // is what a loss of power tore.
    const isTorn = kind === "torn" || (kind === "holed" && !syncs);
    const state = isTorn && isLast && position >= end ? "torn" : "damaged";
    yield { file, position, bytes: next - position, sequence: undefined, state, records: [] };
    position = Math.max(next, position + 8);
  }
}

function recordOf(bytes: Buffer, record: RecordView): FrameRecord {
  const { type, keyStart, valueStart, end } = record;
  const key = decodeKey(bytes.subarray(keyStart, valueStart));
  if (type === PUT) return { kind: "put", key, valueBytes: end - valueStart };
  if (type === DELETE_RANGE) return { kind: "delete-range", key, ...rangeOf(bytes, record) };
  return { kind: "delete", key };
}
