/**
 * What a file log says of itself: numbers for people and metrics. It reads no file; all of it is in memory,
 * and costs a walk over the segments.
 */

import type { Merger } from "./merger.js";
import type { Recovered } from "./recovery.js";

export interface FileLogStats {
  readonly openedReadOnly: boolean;
  readonly keyCount: number;
  readonly commitCount: number;
  readonly segmentCount: number;
  /** Bytes of all segment files, as large as they were made. */
  readonly fileBytes: number;
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

export function statsOf(
  { state, tornBytes, segmentsScanned }: Recovered,
  merger: Merger,
  failure: unknown,
): FileLogStats {
  const { segments, index, sequence } = state;
  const sum = (of: (segment: (typeof segments)[number]) => number) =>
    segments.reduce((total, segment) => total + of(segment), 0);
  return {
    openedReadOnly: false,
    keyCount: index.keyCount,
    commitCount: sequence,
    segmentCount: segments.length,
    fileBytes: sum(({ bytes }) => bytes),
    frameBytes: sum(({ frameBytes }) => frameBytes),
    liveBytes: sum(({ liveBytes }) => liveBytes),
    deletionBytes: sum(({ deletionBytes }) => deletionBytes),
    deadBytes: sum(({ deadBytes }) => deadBytes),
    mergeableBytes: merger.mergeableBytes(),
    merges: merger.merges,
    mergedBytesWritten: merger.bytesWritten,
    tornBytes,
    segmentsScanned,
    mergeFailure: merger.failure,
    failure,
  };
}
