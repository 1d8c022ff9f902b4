/**
 * The names of the options of each call, so that others are refused.
 *
 * Invariant: each table has the names of its interface; the compiler holds it to that.
 */

import { checkOptions, type OptionNames } from "../base/options.js";
import type { AnyModel } from "../contract/model.js";
import type { CheckOptions } from "./check.js";
import type { CompactAllOptions } from "./compact-all.js";
import type { CompactOptions } from "./compaction.js";
import type { CopyOptions } from "./copy.js";
import type { EraseOptions } from "./deletion.js";
import type { ForkOptions } from "./fork.js";
import type {
  AppendOptions,
  CloseOptions,
  HandleOptions,
  LoadOptions,
  OpenOptions,
  SaveOptions,
  StorageOptions,
} from "./options.js";
import type { EventRange, ListOptions } from "./queries.js";
import type { SubscribeOptions } from "./subscription.js";
import type { ExportOptions, ImportOptions } from "./transfer.js";

const storage: OptionNames<StorageOptions<readonly AnyModel[]>> = {
  backend: true,
  models: true,
  snapshotPolicy: true,
  history: true,
  observer: true,
  env: true,
  limits: true,
  folder: true,
};
const handle: OptionNames<HandleOptions> = { autoSave: true, replica: true, onError: true };
const load: OptionNames<LoadOptions> = { ...handle, at: true };
const open: OptionNames<OpenOptions<unknown>> = { ...handle, model: true, initial: true, recreate: true };
const append: OptionNames<AppendOptions> = { model: true, expected: true, commitId: true, info: true };
const save: OptionNames<SaveOptions> = { info: true };
const close: OptionNames<CloseOptions> = { discard: true };
const waitDurable: OptionNames<{ signal?: AbortSignal }> = { signal: true };
const read: OptionNames<EventRange> = { from: true, to: true, links: true, signal: true };
const subscribe: OptionNames<SubscribeOptions> = { from: true, signal: true };
const list: OptionNames<ListOptions> = { prefix: true, after: true, limit: true };
const run = {
  force: true,
  dryRun: true,
  history: true,
  reclaim: true,
  onProgress: true,
  signal: true,
} as const;
const compact: OptionNames<CompactOptions> = run;
const compactAll: OptionNames<CompactAllOptions> = {
  ...run,
  prefix: true,
  minEvents: true,
  idleMs: true,
  concurrency: true,
  budgetMs: true,
};
const erase: OptionNames<EraseOptions> = { reclaim: true };
const fork: OptionNames<ForkOptions> = { at: true, recreate: true, signal: true };
const exporting: OptionNames<ExportOptions> = { at: true, signal: true };
const importing: OptionNames<ImportOptions> = { id: true, recreate: true, signal: true };
const copyTo: OptionNames<CopyOptions> = {
  prefix: true,
  concurrency: true,
  replace: true,
  onProgress: true,
  signal: true,
};
const check: OptionNames<CheckOptions> = { id: true, repair: true, signal: true, onProgress: true };

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
  | "compact"
  | "compactAll"
  | "erase"
  | "fork"
  | "export"
  | "import"
  | "copyTo"
  | "check";

const NAMES: Readonly<Record<Call, Readonly<Record<string, true>>>> = {
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
  compact,
  compactAll,
  erase,
  fork,
  export: exporting,
  import: importing,
  copyTo,
  check,
};

/** Throws a `TypeError` for an option that the call does not have. */
export function assertOptions(call: Call, options: object): void {
  checkOptions(call, options, NAMES[call]);
}
