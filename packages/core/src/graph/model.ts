/**
 * `graph()`: a document model made of a reducer. Events form a causal graph; the state is the fold of the
 * reducer over them in one order, the same wherever the same events are.
 *
 * Invariants: a document is a function of the set of its events and of nothing else, provided that the
 * reducer is pure; `version` is the frontier, which names that set.
 */

import { type Env, systemEnv } from "../base/env.js";
import { said } from "../base/errors.js";
import { checkOptions, type OptionKinds } from "../base/options.js";
import type { Applied, Folded, Model } from "../contract/model.js";
import { decodeEvents, encodeEvents } from "./codec.js";
import { diffStored, readAnswer } from "./diff.js";
import { GraphDocument, type GraphTools } from "./document.js";
import { eventSize, type GraphEvent, soundEvent } from "./event.js";
import { History, type Reducer } from "./history.js";
import { openSnapshot, restoreHistory, type StateCodec } from "./snapshot.js";
import { assertValue, decodeValue, encodeValue } from "./values.js";

/** Events that a document keeps behind the newest ones, so that late events can branch off there. */
const WINDOW_EVENTS = 4096;
const VERSION_MAX = 10_000;

export interface GraphOptions<State, Payload> {
  /** Name of the model, stored with each document. Default `"graph"`. */
  readonly name?: string;
  /** The state without events. */
  readonly initial: State;
  /**
   * The state after one more event. Pure: it changes neither argument, and knows neither time nor chance. One
   * that throws leaves the state as it was, and the event in the history.
   */
  readonly apply: (state: State, payload: Payload, event: GraphEvent<Payload>) => State;
  /**
   * Throws for payloads that no document may take. Asked before an event is stored, and before it is applied.
   */
  readonly check?: (payload: Payload) => void;
  /** Schema version of the payloads that are made now: 1 (default) to 10,000. */
  readonly version?: number;
  /**
   * A payload of an older version in the present one, each time it is read. Stored bytes stay as they are.
   */
  readonly upcast?: (payload: unknown, version: number) => Payload;
  /**
   * A state that a snapshot of an older version holds, in the present one. Without it such snapshots are
   * passed over, and the document is folded from its events as far as they are kept.
   */
  readonly upcastState?: (state: unknown, version: number) => State;
  /**
   * Events that stay in the snapshot behind the last ones (default 4,096; up to twice as many are kept). An
   * event that branches off before them is refused. `Infinity` refuses none: snapshots then hold the whole
   * history.
   */
  readonly window?: number;
  /** Time and chance; default: those of the system. */
  readonly env?: Pick<Env, "now" | "random">;
}

const OPTIONS: OptionKinds<GraphOptions<unknown, unknown>> = {
  name: "text",
  initial: "any",
  apply: "function",
  check: "function",
  version: "number",
  upcast: "function",
  upcastState: "function",
  window: "number",
  env: "any",
};

/** The model that `graph()` makes. */
export interface GraphModel<
  State,
  Payload,
  Doc extends GraphDocument<State, Payload> = GraphDocument<State, Payload>,
> extends Model<Doc, GraphEvent<Payload>> {
  /**
   * Brings a document up to date with an answer of `diff`; trackers do not take what it brings. Throws a
   * `TypeError` for bytes that are no answer, and `TRIMMED` when the document has events that the answer's
   * history cannot take; then nothing has changed.
   */
  receiveDiff(doc: Doc, answer: Uint8Array): Applied<Doc>;
}

/** What is made of a reducer beside the model: how states are stored, and which class its documents have. */
export interface GraphParts<State, Payload, Doc> {
  readonly name: string;
  readonly reducer: Reducer<State, Payload>;
  readonly states: StateCodec<State>;
  readonly stateFormats: readonly number[];
  readonly window: number;
  readonly env: Pick<Env, "now" | "random">;
  readonly make: (history: History<State, Payload>, tools: GraphTools<State>) => Doc;
}

/**
 * Throws a `TypeError` without `apply`, for an initial state that no snapshot could hold, and for a window or
 * version that cannot be. Payloads are given away with `emit`, events
 * with `append` and `receive`: they are not copied, and a change before they are durable is stored.
 */
export function graph<State, Payload>(options: GraphOptions<State, Payload>): GraphModel<State, Payload> {
  checkOptions("graph", options, OPTIONS);
  const { name = "graph", initial, apply, check, upcast, upcastState, version = 1 } = options;
  if (typeof apply !== "function") throw new TypeError("graph: apply must be a function, the reducer");
  assertInitial(initial);
  if (!Number.isSafeInteger(version) || version < 1 || version > VERSION_MAX) {
    throw new TypeError(`version must be an integer from 1 to ${VERSION_MAX}`);
  }
  const stateFormats =
    upcastState === undefined ? [version] : Array.from({ length: version }, (_, i) => i + 1);
  return makeModel<State, Payload, GraphDocument<State, Payload>>({
    name,
    reducer: {
      initial: () => initial,
      apply,
      version,
      ...(check === undefined ? {} : { check }),
      ...(upcast === undefined ? {} : { upcast }),
    },
    states: {
      encode: encodeState,
      decode: (bytes, stored) => {
        const state = decodeValue(bytes);
        return stored === version || upcastState === undefined
          ? (state as State)
          : upcastState(state, stored);
      },
    },
    stateFormats,
    window: windowOf(options.window),
    env: options.env ?? systemEnv(),
    make: (history, tools) => new GraphDocument(history, tools),
  });
}

export function windowOf(window: number = WINDOW_EVENTS): number {
  if (window !== Number.POSITIVE_INFINITY && !(Number.isSafeInteger(window) && window >= 1)) {
    throw new TypeError("window must be an integer from 1, or Infinity");
  }
  return window;
}

/** Else it would be the first snapshot that fails, when there are events. */
function assertInitial(initial: unknown): void {
  try {
    assertValue(initial);
  } catch (error) {
    throw new TypeError(`graph: initial must be a state that snapshots can hold${said(error)}`, {
      cause: error,
    });
  }
}

function encodeState(state: unknown): Uint8Array {
  assertValue(state);
  return encodeValue(state);
}

export function makeModel<State, Payload, Doc extends GraphDocument<State, Payload>>(
  parts: GraphParts<State, Payload, Doc>,
): GraphModel<State, Payload, Doc> {
  const { name, reducer, states, stateFormats, window } = parts;
  const tools = { env: parts.env as Env, states };
  const create = () => parts.make(new History(reducer, window), tools);
  const restore = (bytes: Uint8Array) => parts.make(restoreHistory(bytes, states, reducer, window), tools);
  const fold = (snapshot: Uint8Array | undefined, events: readonly GraphEvent<Payload>[]): Folded => {
    const doc = snapshot === undefined ? create() : restore(snapshot);
    const { held, refused } = doc.apply(events);
    const [version, peerVersion] = [doc.bytes("version"), doc.bytes("peerVersion")];
    return { snapshot: doc.bytes("snapshot"), version, peerVersion, held, refused };
  };
  return {
    name,
    stateFormat: reducer.version,
    stateFormats,
    create,
    restore,
    apply: (doc, events) => doc.apply(events),
    change: (doc, fn) => {
      doc.change(() => fn(doc));
      return doc;
    },
    track: (doc) => doc.track(),
    check: (events) => {
      for (const event of events) checkEvent(reducer, event);
    },
    snapshot: (doc) => doc.bytes("snapshot"),
    version: (doc) => doc.bytes("version"),
    peerVersion: (doc) => doc.bytes("peerVersion"),
    frontierSize: (doc) => doc.frontier.length,
    fold,
    diff: (stored, peer) =>
      diffStored(
        stored,
        peer,
        (bytes) => openSnapshot(bytes, states, reducer.version),
        (bytes, events) => fold(bytes, events as readonly GraphEvent<Payload>[]).snapshot,
      ),
    receiveDiff: (doc, answer) => {
      const { kind, body } = readAnswer(answer);
      return kind === "snapshot" ? doc.adopt(body) : doc.apply(decodeEvents(body) as GraphEvent<Payload>[]);
    },
    codec: {
      encode: encodeEvents,
      decode: (payload) => decodeEvents(payload) as GraphEvent<Payload>[],
      size: (event) => eventSize(soundEvent(event)),
    },
  };
}

function checkEvent<Payload>(
  reducer: Pick<Reducer<unknown, Payload>, "version" | "check" | "upcast">,
  value: unknown,
): void {
  const { version, check, upcast } = reducer;
  const event = soundEvent<Payload>(value);
  if (event.version > version) {
    throw new TypeError(`the schema version ${event.version} is newer than this model's ${version}`);
  }
  if (event.cancels !== undefined) return;
  const older = event.version < version && upcast !== undefined;
  const payload = older ? upcast(event.payload, event.version) : event.payload;
  check?.(payload);
}
