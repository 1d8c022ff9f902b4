/**
 * What a file log says of itself: numbers for people and metrics. It reads no file; all of it is in memory,
 * and costs a walk over the segments.
 */

import type { StoreState } from "./store-state.js";

export interface FileLogStats {
  readonly openedReadOnly: boolean;
  readonly keyCount: number;
  readonly commitCount: number;
  readonly segmentCount: number;
  /** Bytes of all segment files, as large as they were made. */
  readonly fileBytes: number;
  /** Bytes of files that were merged away and are kept for new segments: `merge` and `close` free them. */
  readonly spareBytes: number;
  /** Bytes of frames, of records that keys point to, and of records that delete. */
  readonly frameBytes: number;
  readonly liveBytes: number;
  readonly deletionBytes: number;
  /**
   * Bytes that nobody needs any more: what merging everything would free, and more where a file has room
   * left.
   */
  readonly deadBytes: number;
  /** Bytes of the segments that are dead enough to be merged now. */
  readonly mergeableBytes: number;
  readonly merges: number;
  readonly mergedBytesWritten: number;
  /** What a crash had torn, and this open cut off; it was never acknowledged. */
  readonly tornBytes: number;
  /** Segments that opening had to read as a whole. */
  readonly segmentsScanned: number;
  /** Why merging stopped, or why nothing is written any more. */
  readonly mergeFailure: unknown;
  readonly failure: unknown;
}

/** What the state does not know. */
export type OtherStats = Pick<
  FileLogStats,
  | "openedReadOnly"
  | "spareBytes"
  | "mergeableBytes"
  | "merges"
  | "mergedBytesWritten"
  | "tornBytes"
  | "segmentsScanned"
  | "mergeFailure"
  | "failure"
>;

export function statsOf({ segments, index, sequence }: StoreState, others: OtherStats): FileLogStats {
  const sum = (of: (segment: (typeof segments)[number]) => number) =>
    segments.reduce((total, segment) => total + of(segment), 0);
  return {
    ...others,
    keyCount: index.keyCount,
    commitCount: sequence,
    segmentCount: segments.length,
    fileBytes: sum(({ bytes }) => bytes),
    frameBytes: sum(({ frameBytes }) => frameBytes),
    liveBytes: sum(({ liveBytes }) => liveBytes),
    deletionBytes: sum(({ deletionBytes }) => deletionBytes),
    deadBytes: sum(({ deadBytes }) => deadBytes),
  };
}
