/**
 * Which segments a repair reads, and in which order. Where there is no manifest, their headers tell.
 *
 * Invariant: what deletes comes after what it deletes, or is said to be unsure.
 */

import type { Manifest, SegmentRow } from "./manifest.js";
import { compareHeaders, type SegmentHeader, segmentName } from "./segment.js";

export interface Source {
  readonly number: number;
  readonly name: string;
  /** `undefined`: its header is damaged, and no manifest says it. Nothing of it can be read then. */
  readonly salt: number | undefined;
  readonly kind: SegmentHeader["kind"] | undefined;
  /** What the manifest says of it, where there is one; else its frames end wherever good ones do. */
  readonly row: SegmentRow | undefined;
  /** Another one that was merged may come after it as well as before it, for all that their headers say. */
  readonly isUnsure?: boolean;
}

export interface Found extends Source {
  readonly header: SegmentHeader | undefined;
}

/**
 * Which one was written to. Without a manifest it is a log segment: behind it may lie what a repair has left,
 * and what a merge has begun, which has no header yet.
 */
export function lastOf(sources: readonly Source[]): Source | undefined {
  return sources.findLast(({ row, kind }) => row !== undefined || kind === "log");
}

export function sourcesOf({ segments }: Manifest): Source[] {
  return segments.map((row) => {
    const { number, salt, kind } = row;
    return { number, name: segmentName(number), salt, kind, row };
  });
}

/**
 * Earlier versions gave all that one merge wrote the same place, also when one of these was merged again.
 * Such segments are told apart by their numbers alone: only what the first of them deletes is surely older.
 */
export function inOrder(found: readonly Found[]): Source[] {
  const merged = found.flatMap(({ header }) => (header?.kind === "merged" ? [header] : []));
  const unranked = new Set(merged.filter(({ rank }) => rank === undefined).map(({ sequence }) => sequence));
  const compare = (a: Found, b: Found): number => {
    if (a.header === undefined || b.header === undefined)
      return Number(a.header === undefined) - Number(b.header === undefined) || a.number - b.number;
    // Those that an earlier version wrote have no rank.
    const isSame = a.header.sequence === b.header.sequence && unranked.has(a.header.sequence);
    return isSame ? a.number - b.number : compareHeaders(a.header, b.header);
  };
  const met = new Set<number>();
  return found.toSorted(compare).map((source) => {
    const { header } = source;
    if (header?.kind !== "merged") return source;
    const isUnsure = unranked.has(header.sequence) && met.has(header.sequence);
    met.add(header.sequence);
    return { ...source, isUnsure };
  });
}
