/**
 * Judges an image that comes from outside: whether its records are those of one whole document.
 *
 * It is asked part by part, so that a stream of any length needs little memory, and before anything of the
 * image becomes visible.
 *
 * Invariants: what passes has every record that its meta and its tags name, no other, each once and under
 * its own key; its batches are contiguous and chained from the oldest to the clock, and to the archive before
 * them. Whether a model reads the payloads, and what lies in an archived segment, is not its business: that
 * is found at a load, as ever.
 */

import { isCoppiceError } from "../base/errors.js";
import type { Key } from "../contract/backend.js";
import { compareKeys } from "../contract/keys.js";
import { isWhole, type SegmentRecord, unpackSegmentRecord } from "./archive.js";
import { unseal } from "./envelope.js";
import { invalid } from "./export-stream.js";
import { IMAGE_SPACES, type ImagePart } from "./image.js";
import { type ArchiveRef, type Meta, unpackSnapshotRecord } from "./meta.js";
import { openBatch } from "./reader.js";
import { partOf, type StageRef, type StageSpace, stageOf } from "./stages.js";
import { unsealTags } from "./tag-index.js";

/** The same parts. Throws `EXPORT_INVALID` at one that does not fit, `FORMAT_UNSUPPORTED` for new ones. */
export async function* checkedImage(parts: AsyncIterable<ImagePart>): AsyncGenerator<ImagePart> {
  let check: ImageCheck | undefined;
  try {
    for await (const part of parts) {
      if (part.kind === "begin") {
        check = new ImageCheck(part.meta, part.clock);
        yield part;
      } else if (part.kind === "record") {
        check!.record(part.key, part.value);
        yield part;
      } else {
        yield { ...part, crc: check!.end() };
      }
    }
  } catch (error) {
    if (isCoppiceError(error, "CORRUPT")) throw invalid(error.message, error);
    throw error;
  }
}

/** What is known of a stage that meta or a tag names. */
interface Stage {
  readonly parts: number;
  /** Of the archive: what meta says of it. */
  readonly segment: ArchiveRef | undefined;
  seen: number;
}

/** What the record of an archived segment repeats of meta. */
const SEGMENT_FACTS = ["end", "firstTime", "lastTime", "logBytes", "crc", "bytes"] as const;

class ImageCheck {
  readonly #meta: Meta;
  readonly #clock: number;
  readonly #stages = new Map<string, Stage>();
  readonly #held = new Set<number>();
  #last: Key | undefined;
  #next: number;
  #crc: number | undefined;

  constructor(meta: Meta, clock: number) {
    this.#meta = meta;
    this.#clock = clock;
    if (meta.deleted !== undefined || clock < Math.max(meta.oldest, meta.snapshot?.clock ?? 0)) {
      throw invalid("its meta is that of no document at this clock");
    }
    for (const ref of [meta.snapshot, meta.previous]) this.#name("snapshot", ref);
    // One without parts is lost: only meta tells of it.
    for (const ref of meta.archive) if (ref.parts > 0) this.#name("archive", ref, ref);
    const chained = [meta.previous, meta.snapshot].find((ref) => ref?.clock === meta.oldest);
    this.#next = meta.oldest;
    this.#crc = meta.oldest === meta.base ? 0 : (meta.archive.at(-1)?.crc ?? chained?.crc);
    const based = meta.snapshot !== undefined || isWhole(meta);
    if (meta.oldest > meta.base && (!based || clock === meta.oldest)) {
      throw invalid("a document that was trimmed has a last batch, and a snapshot or all of an archive");
    }
  }

  record(key: Key, value: Uint8Array): void {
    this.#inOrder(key);
    const [space, id, seq] = key;
    if (space === "tags" && seq === undefined) {
      for (const tag of unsealTags(id, value)) this.#name("tagged", tag);
    } else if (space === "snapshot" || space === "tagged" || space === "archive") {
      this.#stage(key, value);
    } else if (space === "held" && key.length === 3) {
      unseal(key, value);
      if (!this.#held.delete(seq!)) throw invalid("it has a held event that no snapshot needs");
    } else if (space === "events" && key.length === 3) {
      this.#batch(key, value);
    } else {
      throw invalid("it has a key that belongs to no document");
    }
  }

  /** The CRC of the last batch. */
  end(): number {
    if (this.#next !== this.#clock) throw invalid("its last batches are missing");
    if (this.#held.size > 0) throw invalid("a held event is missing");
    for (const { parts, seen } of this.#stages.values()) {
      if (seen !== parts + 1) throw invalid("a part of a snapshot, or of the archive, is missing");
    }
    return this.#crc ?? 0;
  }

  #name(space: StageSpace, ref: StageRef | undefined, segment?: ArchiveRef): void {
    if (ref === undefined) return;
    const name = `${space}.${ref.clock}.${ref.stage}`;
    if (this.#stages.has(name) || ref.clock > this.#clock)
      throw invalid("it names a snapshot that cannot be");
    this.#stages.set(name, { parts: ref.parts, segment, seen: 0 });
  }

  #inOrder(key: Key): void {
    const last = this.#last;
    const order = IMAGE_SPACES.indexOf(key[0]);
    const before = last === undefined ? -1 : IMAGE_SPACES.indexOf(last[0]);
    const rises = order > before || (order === before && compareKeys(last!, key) < 0);
    if (order < 0 || !rises) throw invalid("its records are out of order");
    this.#last = key;
  }

  #stage(key: Key, value: Uint8Array): void {
    const stage = this.#stages.get(`${key[0]}.${key[2]}.${stageOf(key)}`);
    if (key.length !== 4 || stage === undefined || partOf(key) !== stage.seen) {
      throw invalid("it has a part of a snapshot, or of the archive, that nothing names");
    }
    const { payload } = unseal(key, value);
    if (stage.seen++ > 0) return;
    if (stage.segment !== undefined) {
      const record: SegmentRecord = unpackSegmentRecord(key, payload);
      const { segment } = stage;
      // The CRC at the end of the archive is what the log names, and a repair may have corrected it.
      const last = segment === this.#meta.archive.at(-1);
      const same = SEGMENT_FACTS.every((name) => record[name] === segment[name] || (last && name === "crc"));
      if (record.parts !== stage.parts || !same) {
        throw invalid("a part of the archive is not what its document says");
      }
      return;
    }
    const record = unpackSnapshotRecord(key, payload);
    if (record.parts !== stage.parts || record.model !== this.#meta.model) {
      throw invalid("a snapshot is not what its document says");
    }
    for (const clock of record.held) this.#held.add(clock);
  }

  #batch(key: Key, value: Uint8Array): void {
    const batch = openBatch(key, value);
    const follows = this.#crc === undefined || batch.header.previousCrc === this.#crc;
    if (batch.clock !== this.#next || batch.end > this.#clock || !follows) {
      throw invalid("its batches do not follow each other");
    }
    for (const ref of [this.#meta.previous, this.#meta.snapshot]) {
      if (ref === undefined || ref.clock <= batch.clock || ref.clock > batch.end) continue;
      if (ref.clock < batch.end || ref.crc !== batch.crc) throw invalid("a snapshot is not one of its log");
    }
    this.#next = batch.end;
    this.#crc = batch.crc;
  }
}
