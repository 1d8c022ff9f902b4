/**
 * The options of each call and of which kind they are, so that others are refused.
 *
 * Invariant: each table has the names and kinds of its interface; the compiler holds it to that.
 */

import { CoppiceError } from "../base/errors.js";
import { checkOptions, type OptionKind, type OptionKinds } from "../base/options.js";
import type { AnyModel } from "../contract/model.js";
import type { CheckOptions } from "./check.js";
import type { CompactAllOptions } from "./compact-all.js";
import type { CompactOptions } from "./compaction.js";
import type { CopyOptions } from "./copy.js";
import type { EraseOptions } from "./deletion.js";
import type { ForkOptions } from "./fork.js";
import type { Observer } from "./observer.js";
import type {
  AppendOptions,
  CloseOptions,
  HandleOptions,
  LoadOptions,
  OpenOptions,
  SaveOptions,
  StorageOptions,
} from "./options.js";
import type { EventRange, InfoOptions, ListOptions } from "./queries.js";
import type { SubscribeOptions } from "./subscription.js";
import type { ExportOptions, ImportOptions } from "./transfer.js";

const storage: OptionKinds<StorageOptions<readonly AnyModel[]>> = {
  backend: "any",
  models: "any",
  snapshotPolicy: "function",
  history: "any",
  observer: "any",
  env: "any",
  limits: "any",
  folder: "any",
};
const observer: OptionKinds<Observer> = {
  append: "function",
  commit: "function",
  load: "function",
  snapshot: "function",
  compact: "function",
  conflict: "function",
  held: "function",
  damage: "function",
  quarantine: "function",
};
const handle: OptionKinds<HandleOptions> = { autoSave: "flag", replica: "text", onError: "function" };
const load: OptionKinds<LoadOptions> = { ...handle, at: "any" };
const open: OptionKinds<OpenOptions<unknown>> = {
  ...handle,
  model: "text",
  initial: "function",
  recreate: "flag",
};
const append: OptionKinds<AppendOptions> = { model: "text", expected: "text", commitId: "any", info: "any" };
const save: OptionKinds<SaveOptions> = { info: "any" };
const close: OptionKinds<CloseOptions> = { discard: "flag" };
const waitDurable: OptionKinds<{ signal?: AbortSignal }> = { signal: "signal" };
const read: OptionKinds<EventRange> = { from: "any", to: "any", links: "flag", signal: "signal" };
const subscribe: OptionKinds<SubscribeOptions> = { from: "any", signal: "signal" };
const list: OptionKinds<ListOptions> = { prefix: "text", after: "text", limit: "count" };
const info: OptionKinds<InfoOptions> = { usage: "flag" };
const run = {
  force: "flag",
  dryRun: "flag",
  history: "any",
  reclaim: "flag",
  onProgress: "function",
  signal: "signal",
} as const;
const compact: OptionKinds<CompactOptions> = run;
const compactAll: OptionKinds<CompactAllOptions> = {
  ...run,
  prefix: "text",
  minEvents: "amount",
  idleMs: "amount",
  concurrency: "positive",
  budgetMs: "number",
};
const erase: OptionKinds<EraseOptions> = { reclaim: "flag" };
const fork: OptionKinds<ForkOptions> = { at: "any", recreate: "flag", signal: "signal" };
const exporting: OptionKinds<ExportOptions> = { at: "any", signal: "signal" };
const importing: OptionKinds<ImportOptions> = { id: "text", recreate: "flag", signal: "signal" };
const copyTo: OptionKinds<CopyOptions> = {
  prefix: "text",
  concurrency: "positive",
  replace: "flag",
  onProgress: "function",
  signal: "signal",
};
const check: OptionKinds<CheckOptions> = {
  id: "text",
  repair: "flag",
  signal: "signal",
  onProgress: "function",
};

export type Call =
  | "DocumentStorage.open"
  | "load"
  | "open"
  | "append"
  | "save"
  | "close"
  | "waitDurable"
  | "read"
  | "subscribe"
  | "list"
  | "info"
  | "compact"
  | "compactAll"
  | "erase"
  | "fork"
  | "export"
  | "import"
  | "copyTo"
  | "check";

const KINDS: Readonly<Record<Call, Readonly<Record<string, OptionKind>>>> = {
  "DocumentStorage.open": storage,
  load,
  open,
  append,
  save,
  close,
  waitDurable,
  read,
  subscribe,
  list,
  info,
  compact,
  compactAll,
  erase,
  fork,
  export: exporting,
  import: importing,
  copyTo,
  check,
};

/** Throws a `TypeError` for an option that the call does not have, or of another kind. */
export function assertOptions(call: Call, options: object): void {
  checkOptions(call, options, KINDS[call]);
}

/** The same for its callbacks: one that is misspelt would never be called. */
export function assertObserver(given: Observer): void {
  checkOptions("an observer", given, observer);
}

/** Returns the options of a wait; a clock that never comes would let it wait for ever. */
export function checkWait(clock: number, options: { signal?: AbortSignal }): { signal?: AbortSignal } {
  assertOptions("waitDurable", options);
  if (Number.isSafeInteger(clock) && clock >= 0) return options;
  throw new CoppiceError("ARGUMENT_INVALID", "waitDurable takes a clock: a safe integer from 0", {
    details: { clock },
  });
}
