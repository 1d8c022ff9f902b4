/**
 * JSON schemas of what the HTTP API answers, for the OpenAPI document.
 *
 * They are written by hand, and held against the types of `answers.ts` by the compiler: a property that a
 * type has and its schema has not, or the other way round, does not compile, nor does a schema of another
 * type. Bounds and texts are the schemas' own.
 *
 * Invariant: each type that a route answers with has a schema of its name.
 */

import type { CheckProblem, DocumentUsage, HistoryEntry, Info, Tag } from "coppice";
import type * as Answers from "./answers.js";

declare const OF: unique symbol;

/** A JSON schema whose values are of the type. */
export type Schema<T = unknown> = Readonly<Record<string, unknown>> & { readonly [OF]?: T };

export const count: Schema<number> = { type: "integer", minimum: 0 };
export const text: Schema<string> = { type: "string" };
export const flag: Schema<boolean> = { type: "boolean" };
const whole: Schema<number> = { type: "integer" };
const number: Schema<number> = { type: "number" };
const always: Schema<true> = { type: "boolean", enum: [true] };
const time: Schema<number> = { type: "integer", description: "ms since 1970" };
const info: Schema<Info> = mapOf({ type: ["string", "number", "boolean"] });

/** What routes answer with, and what is told meanwhile. */
interface Named {
  readonly ActionsAnswer: Answers.ActionsAnswer;
  readonly BareDocument: Omit<Answers.BareDocument, "model">;
  readonly CheckAnswer: Answers.CheckAnswer;
  readonly CheckStepAnswer: Answers.CheckStepAnswer;
  readonly ChangeAnswer: Answers.ChangeAnswer;
  readonly CompactAllAnswer: Answers.CompactAllAnswer;
  readonly CompactAllStepAnswer: Answers.CompactAllStepAnswer;
  readonly CompactAnswer: Answers.CompactAnswer;
  readonly CompactStepAnswer: Answers.CompactStepAnswer;
  readonly ContentAnswer: Answers.ContentAnswer;
  readonly DeleteAnswer: Answers.DeleteAnswer;
  readonly DocumentAnswer: Answers.DocumentAnswer;
  readonly EraseAnswer: Answers.EraseAnswer;
  readonly EventsAnswer: Answers.EventsAnswer;
  readonly Failed: Answers.Failed;
  readonly FailedAnswer: Answers.FailedAnswer;
  readonly FiguresAnswer: Answers.FiguresAnswer;
  readonly ForkAnswer: Answers.ForkAnswer;
  readonly GraphAnswer: Answers.GraphAnswer;
  readonly HistoryAnswer: Answers.HistoryAnswer;
  readonly ImportAnswer: Answers.ImportAnswer;
  readonly KillAnswer: Answers.KillAnswer;
  readonly ListAnswer: Answers.ListAnswer;
  readonly OpenApiAnswer: Answers.OpenApiAnswer;
  readonly SnapshotAnswer: Answers.SnapshotAnswer;
  readonly SupervisorAnswer: Answers.SupervisorAnswer;
  readonly TagAnswer: Answers.TagAnswer;
  readonly TagsAnswer: Answers.TagsAnswer;
  readonly TimelineAnswer: Answers.TimelineAnswer;
  readonly UntagAnswer: Answers.UntagAnswer;
}

export type AnswerName = keyof Named;

/** By its name among the components of the document. */
export function answer<N extends AnswerName>(name: N): Schema<Named[N]> {
  return { $ref: `#/components/schemas/${name}` };
}

const point: Schema<Answers.Point> = {
  type: "array",
  description: "time, clock, bytes",
  prefixItems: [time, count, count],
  minItems: 3,
  maxItems: 3,
};

const key: Schema<NonNullable<CheckProblem["key"]>> = {
  type: "array",
  description: "space, id, and where it has them seq and part",
  prefixItems: [text, text, count, count],
  minItems: 2,
  maxItems: 4,
};

const usage = object<DocumentUsage>({
  storedBytes: count,
  retainedBytes: count,
  snapshotBytes: count,
  archiveBytes: count,
  tags: count,
  tagBytes: count,
  heldEvents: count,
  heldBytes: count,
});

const tagged = { name: text, clock: count, time, bytes: count };
const tag = object<Tag>(tagged);

type EntryOf<K> = Extract<HistoryEntry, { readonly kind: K }>;

const batch = object<Answers.BatchAnswer>({
  kind: word("batch"),
  clock: count,
  end: count,
  bytes: count,
  time,
  commitId: orNull(text),
  info: orNull(info),
});
const snapshot = { clock: count, bytes: count, time };
const entry = either(
  either(batch, object<EntryOf<"snapshot">>({ kind: word("snapshot"), ...snapshot })),
  either(
    object<EntryOf<"tag">>({ kind: word("tag"), name: text, ...snapshot }),
    object<EntryOf<"archive">>({ kind: word("archive"), end: count, ...snapshot }),
  ),
);

const event = object<Answers.EventAnswer>({
  clock: count,
  time,
  commitId: orNull(text),
  info: orNull(info),
  event: orNull(text),
});

const row = object<Answers.GraphRowAnswer>({
  lane: count,
  parents: list(whole),
  replica: text,
  first: count,
  last: count,
  events: count,
  attached: count,
  critical: count,
  endsCritical: flag,
  cut: flag,
  undos: count,
  time,
});

const problem = object<CheckProblem>(
  { id: text, code: text as Schema<CheckProblem["code"]>, message: text, repaired: flag },
  { key, lostEvents: count },
);

const histogram = object<Answers.HistogramAnswer>({
  bounds: list(number),
  counts: list(count),
  sum: number,
  count,
});

const trimmed = { eventsTrimmed: count, bytesTrimmed: count, eventsArchived: count };

const failure = object<Answers.CompactAllAnswer["failures"][number]>({ id: text, error: answer("Failed") });

const mark = object<Answers.Mark>(
  { kind: word("snapshot", "tag", "compaction"), clock: count, time, bytes: count },
  { name: text },
);

export const ANSWERS: { readonly [N in AnswerName]: Schema<Named[N]> } = {
  ActionsAnswer: object<Named["ActionsAnswer"]>({
    id: orNull(text),
    actions: list(word("read", "write", "admin")),
  }),
  BareDocument: object<Named["BareDocument"]>(
    { id: text, connections: count },
    { deleted: always, error: answer("Failed") },
  ),
  ChangeAnswer: object<Named["ChangeAnswer"]>(
    { documents: list(text), others: flag },
    { figures: answer("FiguresAnswer") },
  ),
  CheckAnswer: object<Named["CheckAnswer"]>({
    documents: count,
    events: count,
    problems: list(problem),
    lost: list(object<Answers.CheckAnswer["lost"][number]>({ id: text, events: count })),
    garbageKeys: count,
    quarantined: count,
    clean: flag,
  }),
  CheckStepAnswer: object<Named["CheckStepAnswer"]>({ documents: count }),
  CompactAllAnswer: object<Named["CompactAllAnswer"]>({
    seen: count,
    compacted: count,
    ...trimmed,
    failed: count,
    failures: list(failure),
    stopped: orNull(word("budget", "signal", "poisoned")),
    durationMs: number,
  }),
  CompactAllStepAnswer: object<Named["CompactAllStepAnswer"]>({
    seen: count,
    compacted: count,
    failed: count,
    bytesTrimmed: count,
    id: orNull(text),
  }),
  CompactAnswer: object<Named["CompactAnswer"]>(
    {
      id: text,
      outcome: word("compacted", "nothing-to-do", "not-found", "lost-race", "refused"),
      clock: count,
      snapshotBytes: count,
      ...trimmed,
      held: count,
      durationMs: number,
    },
    { reason: text },
  ),
  CompactStepAnswer: object<Named["CompactStepAnswer"]>({
    phase: word("reading", "folding", "staging", "verifying", "trimming"),
    events: count,
  }),
  ContentAnswer: object<Named["ContentAnswer"]>({
    id: text,
    clock: count,
    model: text,
    parts: list(object<Answers.ContentPart>({ name: text, kind: word("text", "json"), text })),
  }),
  DeleteAnswer: object<Named["DeleteAnswer"]>({ id: text, deleted: always }),
  DocumentAnswer: object<Named["DocumentAnswer"]>(
    {
      id: text,
      model: text,
      clock: count,
      eventsSinceSnapshot: count,
      logBytes: count,
      bytesSinceSnapshot: count,
      snapshotClock: orNull(count),
      snapshotBytes: count,
      snapshotTime: orNull(time),
      oldestClock: count,
      archivedClock: orNull(count),
      archiveBytes: count,
      created: time,
      changed: time,
      token: text,
      connections: count,
    },
    { usage },
  ),
  EraseAnswer: object<Named["EraseAnswer"]>({ id: text, erased: always, keys: count, reclaimed: flag }),
  EventsAnswer: object<Named["EventsAnswer"]>({ id: text, events: list(event), next: orNull(count) }),
  Failed: object<Named["Failed"]>({ code: text, kind: text, message: text }),
  FailedAnswer: object<Named["FailedAnswer"]>({ error: answer("Failed") }),
  FiguresAnswer: object<Named["FiguresAnswer"]>({
    time,
    counters: mapOf(count),
    histograms: mapOf(histogram),
    gauges: mapOf(number),
  }),
  ForkAnswer: object<Named["ForkAnswer"]>({ id: text, clock: count, bytes: count }),
  GraphAnswer: object<Named["GraphAnswer"]>({
    id: text,
    events: count,
    omitted: count,
    unplaced: count,
    numbers: word("replica", "document"),
    complete: flag,
    from: count,
    rows: list(row),
  }),
  HistoryAnswer: object<Named["HistoryAnswer"]>({ id: text, entries: list(entry), next: orNull(count) }),
  ImportAnswer: object<Named["ImportAnswer"]>({
    id: text,
    clock: count,
    outcome: word("imported", "unchanged"),
    bytes: count,
  }),
  KillAnswer: object<Named["KillAnswer"]>({ killed: always }),
  ListAnswer: object<Named["ListAnswer"]>({
    documents: list(either(answer("DocumentAnswer"), answer("BareDocument"))),
    next: orNull(text),
  }),
  OpenApiAnswer: object<Named["OpenApiAnswer"]>({
    openapi: text,
    info: mapOf({}),
    paths: mapOf({}),
    components: mapOf({}),
  }),
  SnapshotAnswer: object<Named["SnapshotAnswer"]>({
    id: text,
    outcome: word("taken", "nothing-to-do"),
    clock: orNull(count),
  }),
  SupervisorAnswer: object<Named["SupervisorAnswer"]>({ supervised: flag, pid: count }),
  TagAnswer: object<Named["TagAnswer"]>({ id: text, ...tagged }),
  TagsAnswer: object<Named["TagsAnswer"]>({ id: text, tags: list(tag) }),
  TimelineAnswer: object<Named["TimelineAnswer"]>({
    id: text,
    points: list(point),
    marks: list(mark),
    kept: object<Answers.TimelineAnswer["kept"]>({ batches: count, events: count, bytes: count }),
    compactionsSince: orNull(time),
  }),
  UntagAnswer: object<Named["UntagAnswer"]>({ id: text, name: text, removed: always }),
};

type OptionalOf<T> = { [K in keyof T]-?: object extends Pick<T, K> ? K : never }[keyof T];
type SchemasOf<T, K extends keyof T> = { readonly [P in K]: Schema<Exclude<T[P], undefined>> };

/** Every property of the type: first those that are always there, then the others. */
function object<T>(
  required: SchemasOf<T, Exclude<keyof T, OptionalOf<T>>>,
  ...rest: [OptionalOf<T>] extends [never] ? [] : [optional: SchemasOf<T, OptionalOf<T>>]
): Schema<T> {
  const [optional] = rest as readonly object[];
  return { type: "object", required: Object.keys(required), properties: { ...required, ...optional } };
}

function list<T>(items: Schema<T>): Schema<readonly T[]> {
  return { type: "array", items };
}

function mapOf<T>(values: Schema<T>): Schema<Readonly<Record<string, T>>> {
  return { type: "object", additionalProperties: values };
}

function word<const T extends string>(...words: readonly T[]): Schema<T> {
  return { type: "string", enum: words };
}

function either<A, B>(one: Schema<A>, other: Schema<B>): Schema<A | B> {
  return { anyOf: [one, other] };
}

function orNull<T>(schema: Schema<T>): Schema<T | null> {
  return { anyOf: [schema, { type: "null" }] };
}
