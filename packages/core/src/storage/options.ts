/**
 * What the methods of DocumentStorage take and return, and the checks of these options that need no storage.
 *
 * Options of one room alone stay in that room (`compaction.ts`, `check.ts`, `queries.ts`, `handle.ts`).
 */

import { hasLoneSurrogate, pooledCopy } from "../base/bytes.js";
import type { Env } from "../base/env.js";
import { CoppiceError } from "../base/errors.js";
import type { Limits } from "../base/limits.js";
import type { BackendFactory } from "../contract/backend.js";
import type { AnyModel, Model, Refusal } from "../contract/model.js";
import { assertModel } from "../contract/model-shape.js";
import type { Folder } from "./folding.js";
import { packRecord } from "./meta.js";
import type { Moment } from "./moments.js";
import type { Observer } from "./observer.js";
import { assertOptions } from "./option-kinds.js";
import { assertPolicy, type SnapshotPolicy } from "./policy.js";
import type { HistoryPolicy } from "./trimming.js";

/** What the documents of a model are: `Y.Doc` for `Model<Y.Doc>`. */
export type DocOf<M> = M extends Model<infer Doc, infer _Event> ? Doc : never;

export interface StorageOptions<Models extends readonly AnyModel[]> {
  readonly backend: BackendFactory;
  /** The first one is the default for new documents. */
  readonly models: Models;
  /** When to take a snapshot by itself; `never` for only when asked. */
  readonly snapshotPolicy?: SnapshotPolicy;
  /**
   * What a compaction does with events that a snapshot covers: `"drop"` them, move them into a compressed
   * `"archive"` from which past versions can still be loaded and read, or keep at least the last
   * `{ keepEvents }`. Default: `"archive"` for a document that has an archive, else `"drop"`.
   */
  readonly history?: HistoryPolicy;
  readonly observer?: Observer;
  readonly env?: Env;
  /** Single limits to change; the others keep their defaults. `idBytesMax` can only be lowered. */
  readonly limits?: Partial<Limits>;
  /** Where folds and verifications run; default: large ones in a thread, where there are threads. */
  readonly folder?: Folder;
}

export interface HandleOptions {
  /**
   * Save by itself whenever events were captured or received; `flush` and `close` of the storage, and `close`
   * of the handle, save what is left.
   */
  readonly autoSave?: boolean;
  /** A name for people and logs; never an identity. */
  readonly replica?: string;
  /**
   * Told when `autoSave` failed. The events stay with the handle for the next save. Without it a failure is
   * raised as an uncaught error, which ends a Node process.
   */
  readonly onError?: (error: unknown) => void;
}

/** What `receive` did. Refused events were not staged; held ones were. */
export interface Received {
  readonly applied: number;
  readonly held: number;
  readonly refused: readonly Refusal[];
}

export interface CloseOptions {
  /**
   * Drop what is unsaved. Without it a storage saves that; a handle with `autoSave` does, others refuse.
   */
  readonly discard?: boolean;
}

export interface LoadOptions extends HandleOptions {
  /**
   * A past version: a clock (the document as it was after that many events), the name of a tag, or a date.
   * It cannot be saved.
   */
  readonly at?: Moment;
}

export interface OpenOptions<Doc> extends HandleOptions {
  /**
   * For a document that does not exist yet; default: the first model. The type is not inferred from it: name
   * it, as in `open<LoroDoc>(id, { model: "loro" })`.
   */
  readonly model?: string;
  /** Edits the new document before it is created. Of two creators who race, only one's edits are stored. */
  readonly initial?: (doc: Doc) => unknown;
  /** Begin anew when the id was deleted; the clock goes on where it ended. */
  readonly recreate?: boolean;
}

/**
 * Who and from where, for history: plain values, at most `limits.infoBytesMax` bytes once packed. No name is
 * `__proto__`, and no lone surrogates are in names and strings.
 */
export type AppendInfo = Readonly<Record<string, string | number | boolean>>;

export interface AppendOptions {
  /** For a document that does not exist yet; default: the first model. */
  readonly model?: string;
  /** A token: append only if the document is still in that state (`ABSENT`: does not exist). */
  readonly expected?: string;
  /** From `storage.newCommitId()`: repeating the call with it writes nothing twice. */
  readonly commitId?: Uint8Array | string;
  readonly info?: AppendInfo;
}

export interface SaveOptions {
  /** Goes with the cut, and is shown with its events. */
  readonly info?: AppendInfo;
}

export interface SettledCommit {
  readonly id: string;
  /** As in the details of the rejection: `commitId`, or `batch` for appends that chose none. */
  readonly commitId: Uint8Array;
  /** The clocks before and after its events, if it was applied. */
  readonly clock: number;
  readonly end: number;
  readonly applied: boolean;
}

export interface RecoverReport {
  /**
   * What became of the commits whose outcome was unknown. Those are left out of which nothing tells any more:
   * the document was deleted, or trimmed further than it remembers commit ids.
   */
  readonly settled: readonly SettledCommit[];
}

/** The bytes of `info`; `ARGUMENT_INVALID` or `BATCH_TOO_LARGE` when it is not plain or too long. */
export function packInfo(id: string, info: AppendInfo | undefined, max: number): Uint8Array | undefined {
  if (info === undefined) return undefined;
  checkInfo(id, info);
  for (const [name, value] of Object.entries(info)) {
    const wrong = wrongWith(name, value);
    if (wrong === undefined) continue;
    throw new CoppiceError("ARGUMENT_INVALID", `info ${wrong}`, { details: { id, name } });
  }
  const packed = packRecord({ ...info });
  if (packed.length > max) {
    throw new CoppiceError("BATCH_TOO_LARGE", "info is over the limit; nothing was written", {
      details: { id, limit: "infoBytesMax", max, actual: packed.length },
    });
  }
  return packed;
}

/** What would come back as something else. */
function wrongWith(name: string, value: unknown): string | undefined {
  if (!["string", "number", "boolean"].includes(typeof value)) return "takes strings, numbers and booleans";
  if (name === "__proto__") return "cannot have the name __proto__";
  const isBroken = hasLoneSurrogate(name) || (typeof value === "string" && hasLoneSurrogate(value));
  return isBroken ? "cannot have lone surrogates: they are no text that can be stored" : undefined;
}

/** `ARGUMENT_INVALID` for what is no plain object: its entries would be taken for what was meant. */
export function checkInfo(id: string, info: unknown): void {
  const isObject = typeof info === "object" && info !== null;
  const prototype: unknown = isObject ? Object.getPrototypeOf(info) : undefined;
  // Also one of another realm, whose prototype is not ours.
  if (isObject && (prototype === null || Object.getPrototypeOf(prototype) === null)) return;
  throw new CoppiceError("ARGUMENT_INVALID", 'info must be a plain object, as { who: "ada" }', {
    details: { id },
  });
}

/** The events that `initial` makes on a new document. */
export function initialEvents(model: AnyModel, initial: unknown): unknown[] {
  if (initial === undefined) return [];
  const doc = model.create();
  const tracker = model.track(doc);
  const changed = model.change(doc, atOnce("initial", initial as (doc: unknown) => unknown));
  const events = tracker.take(changed);
  tracker.stop();
  model.dispose?.(changed);
  return events;
}

/** The edit itself; what an asynchronous one does later would be no part of it. */
export function atOnce(call: string, fn: (doc: unknown) => unknown): (doc: unknown) => unknown {
  if (typeof fn !== "function") throw new TypeError(`${call} takes a function that edits the document`);
  return (doc) => {
    const result = fn(doc);
    if (!(result instanceof Promise)) return result;
    throw new TypeError(`${call} takes a function that is not async: wait first, and then edit at once`);
  };
}

/** Bytes are copied, so that the caller may use its buffer again. */
export function copyEvent<Event>(event: Event): Event {
  return event instanceof Uint8Array ? (new Uint8Array(event) as Event) : event;
}

/** The same for events that are not kept beyond one commit. */
export function copiesForMoment(events: readonly unknown[]): unknown[] {
  const copies = new Array<unknown>(events.length);
  for (let index = 0; index < events.length; index++) {
    const event = events[index];
    copies[index] = event instanceof Uint8Array ? pooledCopy(event) : event;
  }
  return copies;
}

/** Without types anybody may call the constructor of a storage, with nothing. */
export function factoryOf(options: { readonly backend: BackendFactory } | undefined): BackendFactory {
  if (options === undefined) throw new TypeError("open a storage with await DocumentStorage.open(…)");
  return options.backend;
}

/** The models by their names; the first one is the default. Throws a `TypeError` for what is no use. */
export function namedModels(options: StorageOptions<readonly AnyModel[]>): {
  readonly models: ReadonlyMap<string, AnyModel>;
  readonly defaultModel: AnyModel;
} {
  // Without types anything may come.
  const { backend, models: list, snapshotPolicy } = { ...options };
  if (snapshotPolicy !== undefined) assertPolicy("snapshotPolicy", snapshotPolicy);
  assertOptions("DocumentStorage.open", options);
  // A storage has an `open` as well, which opens a document.
  if (typeof backend?.open !== "function" || "append" in backend) {
    const called = typeof backend === "function" ? "; call the function that makes it" : "";
    throw new TypeError(`DocumentStorage.open needs a backend, like levelBackend(path)${called}`);
  }
  if (!Array.isArray(list)) {
    throw new TypeError("DocumentStorage.open needs a list of models, like [yjs()]");
  }
  const models = new Map<string, AnyModel>();
  for (const [index, model] of (list as readonly AnyModel[]).entries()) {
    assertModel(`models[${index}]`, model);
    if (models.has(model.name)) {
      throw new TypeError(`models need different names: models[${index}] is a second ${model.name}`);
    }
    models.set(model.name, model);
  }
  const [defaultModel] = list;
  if (defaultModel === undefined) throw new TypeError("DocumentStorage.open needs at least one model");
  return { models, defaultModel };
}
