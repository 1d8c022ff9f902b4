/**
 * A small model for the tests: a ledger of named amounts whose reducer does not commute, so that a wrong
 * order shows, and its naive twin, which sorts all events and folds them.
 */

import { type Env, type GraphDocument, type GraphEvent, type GraphModel, graph } from "coppice";

export type Entry =
  | { readonly set: string; readonly to: number }
  | { readonly add: string; readonly amount: number }
  | { readonly drop: string };

export type Ledger = Readonly<Record<string, number>>;
export type LedgerDoc = GraphDocument<Ledger, Entry>;
export type LedgerEvent = GraphEvent<Entry>;

export function applyEntry(state: Ledger, entry: Entry): Ledger {
  if ("set" in entry) return { ...state, [entry.set]: entry.to };
  if ("add" in entry) return { ...state, [entry.add]: (state[entry.add] ?? 0) * 2 + entry.amount };
  if (!(entry.drop in state)) throw new Error("there is nothing to drop");
  const { [entry.drop]: _, ...rest } = state;
  return rest;
}

export function checkEntry(entry: Entry): void {
  const { set, to, add, amount, drop } = Object(entry) as Record<string, unknown>;
  const sound =
    (typeof set === "string" && typeof to === "number") ||
    (typeof add === "string" && typeof amount === "number") ||
    typeof drop === "string";
  if (!sound) throw new TypeError("not an entry");
}

export function ledger(
  options: { window?: number; env?: Pick<Env, "now" | "random">; name?: string } = {},
): GraphModel<Ledger, Entry> {
  return graph<Ledger, Entry>({ initial: {}, apply: applyEntry, check: checkEntry, ...options });
}

/** A random entry; `below(n)` gives an integer under n. */
export function randomEntry(below: (end: number) => number): Entry {
  const key = "abcdef"[below(6)]!;
  if (below(3) === 0) return { set: key, to: below(100) };
  return { add: key, amount: below(10) };
}

export function contentOf(state: Ledger): string {
  return JSON.stringify(Object.entries(state).sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** The state of a set of events, by sorting and folding everything. */
export function naiveState(events: Iterable<LedgerEvent>): Ledger {
  const sorted = [...events].sort(
    (a, b) => a.lamport - b.lamport || (a.replica < b.replica ? -1 : 1) || a.sequence - b.sequence,
  );
  let state: Ledger = {};
  for (const event of sorted) {
    if (event.cancels !== undefined) continue;
    const about = sorted.filter(
      ({ cancels }) =>
        cancels?.replica === event.replica && cancels.from <= event.sequence && event.sequence < cancels.to,
    );
    if (about.at(-1)?.cancels?.undone) continue;
    // What the reducer would throw at changes nothing.
    if (!("drop" in event.payload) || event.payload.drop in state) state = applyEntry(state, event.payload);
  }
  return state;
}
