/**
 * The contract between storage and whatever gives its bytes meaning. Types and promises, no code.
 *
 * A model is one kind of document (Yjs, Automerge, Loro, an event graph). It never touches a backend, a clock
 * or chance of storage's; storage never looks inside an event.
 *
 * Rules (`MD` in docs/spec.md):
 * - events are idempotent: applying one twice equals applying it once;
 * - a document that a model hands out writes under a fresh replica identity, never a resumed one;
 * - bytes that a function gives are copied before the next call: their buffers may then be used again. Events
 *   that `take` and `decode` give are kept as they are;
 * - what `apply` or `fold` reports as held or refused is NOT in the snapshot taken afterwards; storage keeps
 *   its bytes and offers them again.
 */

/**
 * An event that a model will never apply, and why. `index` counts from 0 within the events that were passed.
 */
export interface Refusal {
  readonly index: number;
  readonly reason: string;
}

/** What became of the events that were passed: `applied + held.length + refused.length = events.length`. */
export interface Applied<Doc> {
  /** The same document for models that mutate, a new one for immutable models. */
  readonly doc: Doc;
  readonly applied: number;
  /**
   * Indexes of events that cannot be applied (completely) yet: something they build on is missing. Ascending.
   */
  readonly held: readonly number[];
  readonly refused: readonly Refusal[];
}

export interface Folded {
  readonly snapshot: Uint8Array;
  /** `version` and `peerVersion` of the document that `snapshot` restores to. */
  readonly version: Uint8Array;
  readonly peerVersion: Uint8Array;
  readonly held: readonly number[];
  readonly refused: readonly Refusal[];
}

/** Captures the events that the application makes on a live document. */
export interface Tracker<Doc, Event> {
  /**
   * All events made since the last `take`, in order: one synchronous cut, `[]` when nothing is new. Costs as
   * much as is new, not as much as the document. Events passed to `apply` are never among them.
   */
  take(doc: Doc): Event[];
  /** True when `take` would return something, or will in a microtask from now. Cheap. */
  pending(doc: Doc): boolean;
  /** Calls back after an event was captured, for `autoSave`. */
  onEvent?(listener: () => void): void;
  stop(): void;
}

/** Bytes that storage knows of a document, for `diff`. */
export interface StoredState<Event> {
  /** `undefined` for a document without a snapshot. */
  readonly version: Uint8Array | undefined;
  readonly peerVersion: Uint8Array | undefined;
  /** `undefined` on the first call: see `Model.diff`. */
  readonly snapshot: Uint8Array | undefined;
  /** The events after the snapshot, and the held ones. */
  readonly tail: readonly Event[];
}

/**
 * What the bytes of one event say of its place among the others. A name is the model's own, of a replica or
 * a change, and has points that are counted from 0: each came after the one before it.
 */
export interface EventLinks {
  /** Who made it, for people to tell apart; of several, one. */
  readonly replica: string;
  /** Points that it makes: `[from, to)`. None, when nothing could ever refer to it. */
  readonly makes: readonly { readonly name: string; readonly from: number; readonly to: number }[];
  /** Points that it surely came after, beside those before its own. */
  readonly after: readonly { readonly name: string; readonly at: number }[];
  /** Whether that is everything that its author had seen; `false`: it may be more. */
  readonly complete: boolean;
}

export interface Model<Doc = unknown, Event = Uint8Array> {
  /** Stored with each document; `[a-z][a-z0-9-]*`, at most 32 characters. */
  readonly name: string;
  /** Stored with each snapshot: a number that changes when `restore` cannot read the old bytes any more. */
  readonly stateFormat: number;
  /** State formats that `restore` reads; `[stateFormat]` when absent. */
  readonly stateFormats?: readonly number[];

  /** Awaited by `DocumentStorage.open`: loading WASM, for example. */
  ready?(): Promise<void>;

  create(): Doc;
  /** The document that `snapshot` describes. Throws on bytes that are not such a snapshot. */
  restore(snapshot: Uint8Array): Doc;
  dispose?(doc: Doc): void;

  /**
   * Applies events at once (one transaction, one notification). Never throws for a bad event: it is refused.
   * Where observers of the document run meanwhile and one throws, the events are applied all the same;
   * `onThrown` is told of the error, and without it `apply` throws the error in the end.
   */
  apply(doc: Doc, events: readonly Event[], onThrown?: (error: unknown) => void): Applied<Doc>;

  /** A local edit: mutating models run `fn` in one transaction, immutable ones return what it returns. */
  change(doc: Doc, fn: (doc: Doc) => unknown): Doc;

  track(doc: Doc): Tracker<Doc, Event>;

  /** Validates events without a document. Throws any error for bytes that no document could ever apply. */
  check?(events: readonly Event[]): void;

  /**
   * The place of an event among the others, told from its bytes alone, for drawings of the event graph.
   * Throws for bytes that are no event. Absent: its events tell nothing, or the documents themselves keep a
   * graph.
   */
  links?(event: Event): EventLinks;

  /**
   * True while the document itself keeps events aside that `snapshot` leaves out, from wherever they came.
   * Needed where documents take events other than through `apply`; absent: never.
   */
  holds?(doc: Doc): boolean;

  /**
   * Bytes of the document without held and refused events. Same content, same replicas: need not be equal
   * bytes.
   */
  snapshot(doc: Doc): Uint8Array;
  /** Equal exactly when the content is equal, deletions included; held events do not count. */
  version(doc: Doc): Uint8Array;
  /** What peers present to ask for a `diff` (Yjs: the state vector). */
  peerVersion(doc: Doc): Uint8Array;
  /**
   * Number of events of the document's version that are nobody's parents in it; 0 for an empty document.
   * Absent where events have no parents: then no frontier ever collapses, and a snapshot is due by the count
   * and the weight of events alone.
   */
  frontierSize?(doc: Doc): number;

  /** Snapshot + events → snapshot, bytes to bytes. Pure; may run in a worker. Throws on a bad snapshot. */
  fold(snapshot: Uint8Array | undefined, events: readonly Event[]): Folded;

  /**
   * Bytes that bring a peer at `peer` up to date; applied with the peer's ordinary update function. Called
   * first without the snapshot's bytes; `undefined` asks for a second call with them. Throws on a bad `peer`.
   */
  diff?(stored: StoredState<Event>, peer: Uint8Array): Uint8Array | undefined;

  /**
   * Whether the document has all that this snapshot holds. The document is the caller's own, and may be
   * changed by it. Throws on bytes that are no snapshot. Absent: it is not to be told; see `copyTo`.
   */
  covers?(doc: Doc, snapshot: Uint8Array): boolean;

  /** The events of one batch to its payload and back. `decode` throws on damaged bytes. */
  readonly codec: {
    encode(events: readonly Event[]): Uint8Array;
    decode(payload: Uint8Array): Event[];
    /** Bytes of one event, for limits. */
    size(event: Event): number;
  };

  /**
   * How to make this model again in a thread: module address, exported factory, its options. The module must
   * be a file of its own that does nothing but export the factory: never `import.meta.url`, which in a
   * bundled application is the application.
   */
  readonly worker?: { readonly module: string; readonly export: string; readonly options: unknown };
}

// biome-ignore lint/suspicious/noExplicitAny: a list of models has documents and events of different types
export type AnyModel = Model<any, any>;
