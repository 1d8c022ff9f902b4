/**
 * Snapshot policies: pure functions that say whether a document is due for a snapshot.
 *
 * A policy only permits a snapshot; it never trims. Policies compose with `anyOf` and `allOf`.
 */

export interface SnapshotStats {
  readonly eventsSinceSnapshot: number;
  /** Payload bytes of those events. */
  readonly bytesSinceSnapshot: number;
  /** Bytes of the newest snapshot as stored; 0 when there is none. */
  readonly snapshotBytes: number;
  /** Since the newest snapshot, or since the document was created. */
  readonly msSinceSnapshot: number;
  /** Only where the document is loaded, and its model knows it. */
  readonly frontierSize?: number;
  /**
   * The frontier had more than one event since the newest snapshot and has exactly one now. Only with
   * `frontierSize`.
   */
  readonly collapsed?: boolean;
}

export type SnapshotPolicy = (stats: SnapshotStats) => boolean;

/**
 * When concurrent branches have merged into one, and at least `minEvents` came since the last snapshot. Never
 * for documents of a model without `frontierSize`.
 */
export function onFrontierCollapse({ minEvents = 1 }: { minEvents?: number } = {}): SnapshotPolicy {
  assertNumber("onFrontierCollapse: minEvents", minEvents);
  return ({ collapsed, eventsSinceSnapshot }) => collapsed === true && eventsSinceSnapshot >= minEvents;
}

/** After `count` events. A snapshot costs the whole document: prefer `whenTailOutweighs` for large ones. */
export function everyEvents(count: number): SnapshotPolicy {
  assertNumber("everyEvents", count);
  return ({ eventsSinceSnapshot }) => eventsSinceSnapshot >= count;
}

/** After `byteCount` payload bytes of events. */
export function everyBytes(byteCount: number): SnapshotPolicy {
  assertNumber("everyBytes", byteCount);
  return ({ bytesSinceSnapshot }) => bytesSinceSnapshot >= byteCount;
}

/**
 * When the events since the snapshot weigh at least `ratio` times the snapshot. Over a document's life
 * snapshots then cost at most 1/ratio bytes for each byte of events, however large the document grows.
 */
export function whenTailOutweighs(ratio: number): SnapshotPolicy {
  assertNumber("whenTailOutweighs", ratio);
  return ({ bytesSinceSnapshot, snapshotBytes }) => bytesSinceSnapshot >= ratio * snapshotBytes;
}

/** What is compared with no number is never reached, and nothing would say so. */
function assertNumber(what: string, value: unknown): void {
  if (typeof value === "number" && value >= 0) return;
  throw new TypeError(`${what} must be a number from 0, and is ${String(value)}`);
}

/** What makes policies, and is none: called as one, each says yes to every batch. */
const MAKERS: ReadonlyMap<unknown, string> = new Map<unknown, string>([
  [onFrontierCollapse, "onFrontierCollapse({ minEvents: 100 })"],
  [everyEvents, "everyEvents(1000)"],
  [everyBytes, "everyBytes(1e6)"],
  [whenTailOutweighs, "whenTailOutweighs(4)"],
  [anyOf, "anyOf(everyEvents(1000), everyBytes(1e6))"],
  [allOf, "allOf(everyEvents(1000), whenTailOutweighs(4))"],
]);

/** Throws a `TypeError` for what is no policy, also for one of the functions here that was not called. */
export function assertPolicy(what: string, policy: unknown): void {
  if (typeof policy !== "function") {
    throw new TypeError(`${what} must be a function, like everyEvents(1000) or never`);
  }
  const example = MAKERS.get(policy);
  if (example === undefined) return;
  throw new TypeError(`${what} is no policy; call the function that makes it, as in ${example}`);
}

export function anyOf(...policies: readonly SnapshotPolicy[]): SnapshotPolicy {
  for (const [index, policy] of policies.entries()) assertPolicy(`anyOf: policy ${index}`, policy);
  return (stats) => policies.some((policy) => policy(stats));
}

export function allOf(...policies: readonly SnapshotPolicy[]): SnapshotPolicy {
  for (const [index, policy] of policies.entries()) assertPolicy(`allOf: policy ${index}`, policy);
  return (stats) => policies.every((policy) => policy(stats));
}

/** Only when asked for by `snapshot()` or `compact()`. */
export const never: SnapshotPolicy = () => false;

/**
 * When the frontier collapses and the tail weighs a quarter of the snapshot; when at least 1,000 events weigh
 * four times the snapshot; and after 50,000 events in any case, so that a load never replays many more.
 */
export const defaultPolicy: SnapshotPolicy = anyOf(
  allOf(onFrontierCollapse({ minEvents: 100 }), whenTailOutweighs(0.25)),
  allOf(everyEvents(1000), whenTailOutweighs(4)),
  everyEvents(50_000),
);
