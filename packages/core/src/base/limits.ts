/**
 * Every maximum, with its unit and its reason. A value over a limit is refused with a typed error that
 * names the limit, and nothing is written.
 */

export interface Limits {
  /** Bytes of a document id in UTF-8: keys stay small beside LevelDB's 4 KiB blocks. */
  readonly idBytesMax: number;
  /** Bytes of one event as the model hands it over. */
  readonly eventBytesMax: number;
  /** Events in one `append` or `save`. */
  readonly batchEventsMax: number;
  /** Payload bytes of one batch, that is, of one stored value of the log. */
  readonly batchBytesMax: number;
  /** Bytes of the optional `info` of a batch. */
  readonly infoBytesMax: number;
  /** Bytes of one stored part of a snapshot; larger snapshots are cut into several. */
  readonly snapshotPartBytesMax: number;
  /** Bytes of a whole snapshot before compression. Above it compaction refuses, and the log stays. */
  readonly snapshotBytesMax: number;
  /** Bytes appended but not yet durable, over all documents. Above it `append` rejects with `BUSY`. */
  readonly inFlightBytesMax: number;
  /** Documents whose head is kept in memory (about 400 bytes each, plus their meta). */
  readonly headsMax: number;
  /** Commit ids remembered for each document, to recognise a repeated append. */
  readonly commitIdsMax: number;
  /** Bytes and operations that group commit joins into one backend commit. */
  readonly groupBytesMax: number;
  readonly groupOperationsMax: number;
  /** Keys that one slice of a sweep deletes. */
  readonly sweepKeysMax: number;
  /** Bytes of one page of a scan. */
  readonly pageBytesMax: number;
  /** Bytes of one frame of an export: the largest stored value, with its key. */
  readonly exportFrameBytesMax: number;
  /** Events that one snapshot may leave held or refused; above it compaction refuses, and the log stays. */
  readonly heldEventsMax: number;
  /** Bytes of one segment of the archive before compression; a larger batch is a segment of its own. */
  readonly archiveSegmentBytesMax: number;
  /** Tags of one document: their index is one value, rewritten with each of them. */
  readonly tagsMax: number;
  /** Bytes of the name of a tag in UTF-8. */
  readonly tagNameBytesMax: number;
}

export const LIMITS: Limits = {
  idBytesMax: 512,
  eventBytesMax: 16 * 1024 * 1024,
  batchEventsMax: 65_536,
  batchBytesMax: 32 * 1024 * 1024,
  infoBytesMax: 1024,
  snapshotPartBytesMax: 1024 * 1024,
  snapshotBytesMax: 512 * 1024 * 1024,
  inFlightBytesMax: 64 * 1024 * 1024,
  headsMax: 4096,
  commitIdsMax: 64,
  groupBytesMax: 4 * 1024 * 1024,
  groupOperationsMax: 1024,
  sweepKeysMax: 512,
  pageBytesMax: 1024 * 1024,
  exportFrameBytesMax: 65 * 1024 * 1024,
  heldEventsMax: 10_000,
  archiveSegmentBytesMax: 4 * 1024 * 1024,
  tagsMax: 256,
  tagNameBytesMax: 128,
};

/**
 * The limits with some changed. Throws a `RangeError` for a limit that is unknown or not a count from 1, and
 * a `TypeError` for what are none.
 */
export function withDefaults(changed: Partial<Limits> = {}): Limits {
  if (typeof changed !== "object" || changed === null)
    throw new TypeError("limits must be an object, as in { eventBytesMax: 1_000_000 }");
  for (const [name, value] of Object.entries(changed)) {
    if (!Object.hasOwn(LIMITS, name)) {
      throw new RangeError(`there is no limit ${name}; there are ${Object.keys(LIMITS).join(", ")}`);
    }
    if (!Number.isSafeInteger(value) || value < 1) throw new RangeError(`${name} must be an integer from 1`);
  }
  if ((changed.idBytesMax ?? 0) > LIMITS.idBytesMax) {
    throw new RangeError(
      `idBytesMax can be lowered, not raised: keys hold at most ${LIMITS.idBytesMax} bytes`,
    );
  }
  return { ...LIMITS, ...changed };
}

/** What the event graph holds to; not options, because what one process writes every other must read. */
export const GRAPH_LIMITS = {
  /** Nesting of a payload or a state: decoding recurses. */
  valueDepthMax: 64,
  /** Direct parents of one event. */
  parentIdsMax: 1024,
  /**
   * Events in one encoded batch: a byte may stand for an event, and an event takes some 200 bytes of memory.
   */
  encodedEventsMax: 1_048_576,
} as const;
