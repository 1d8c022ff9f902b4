/**
 * What the HTTP API answers, as JSON: the types that the routes return and the page reads. They come along
 * with `@coppice/server/client`; there is no code here.
 *
 * Invariant: what is absent in JSON is `null` or left out, as the types say; times are ms since 1970, sizes
 * bytes.
 */

import type {
  CheckReport,
  CompactAllResult,
  CompactResult,
  CompactStep,
  DocumentInfo,
  ForkResult,
  HistoryEntry,
  ImportResult,
  Info,
  Tag,
} from "coppice";

export interface Failed {
  readonly code: string;
  readonly kind: string;
  readonly message: string;
}

/** Every answer whose status is 400 or more. */
export interface FailedAnswer {
  readonly error: Failed;
}

/** `GET /api/actions`, of the whole store (`id: null`), and `GET /api/documents/{id}/actions`. */
export interface ActionsAnswer {
  readonly id: string | null;
  readonly actions: readonly ("read" | "write" | "admin")[];
}

/** `GET /api/openapi.json`. */
export interface OpenApiAnswer {
  readonly openapi: string;
  readonly info: Readonly<Record<string, unknown>>;
  readonly paths: Readonly<Record<string, unknown>>;
  readonly components: Readonly<Record<string, unknown>>;
}

/** `GET` and `PUT /api/documents/{id}`; `usage` where it was asked for. */
export interface DocumentAnswer
  extends Omit<DocumentInfo, "snapshotClock" | "snapshotTime" | "archivedClock"> {
  readonly snapshotClock: number | null;
  readonly snapshotTime: number | null;
  readonly archivedClock: number | null;
  /** Clients that are connected to it. */
  readonly connections: number;
}

/** A document that is damaged, or was deleted while it was listed; or any one without `info`. */
export interface BareDocument {
  readonly id: string;
  readonly connections: number;
  readonly deleted?: true;
  readonly error?: Failed;
  readonly model?: undefined;
}

/** `GET /api/documents`. */
export interface ListAnswer {
  readonly documents: readonly (DocumentAnswer | BareDocument)[];
  /** The `after` of the next page. */
  readonly next: string | null;
}

type BatchEntry = Extract<HistoryEntry, { readonly kind: "batch" }>;

/** The archive leaves out the ids of commits that storage made; ids are in hexadecimal. */
export interface BatchAnswer extends Omit<BatchEntry, "commitId" | "info"> {
  readonly commitId: string | null;
  readonly info: Info | null;
}

/** `GET /api/documents/{id}/history`. */
export interface HistoryAnswer {
  readonly id: string;
  readonly entries: readonly (BatchAnswer | Exclude<HistoryEntry, BatchEntry>)[];
  /** The `from` of the next page. */
  readonly next: number | null;
}

/** `clock`: before the event; `event`: in base64, `null` where its bytes were lost or it is none of bytes. */
export interface EventAnswer {
  readonly clock: number;
  readonly time: number;
  readonly commitId: string | null;
  readonly info: Info | null;
  readonly event: string | null;
}

/** `GET /api/documents/{id}/events`. */
export interface EventsAnswer {
  readonly id: string;
  readonly events: readonly EventAnswer[];
  /** The `from` of the next page. */
  readonly next: number | null;
}

/** `PUT /api/documents/{id}/tags/{name}`. */
export interface TagAnswer extends Tag {
  readonly id: string;
}

/** `GET /api/documents/{id}/tags`, by clock. */
export interface TagsAnswer {
  readonly id: string;
  readonly tags: readonly Tag[];
}

/** `DELETE /api/documents/{id}/tags/{name}`. */
export interface UntagAnswer {
  readonly id: string;
  readonly name: string;
  readonly removed: true;
}

/** `DELETE /api/documents/{id}`. */
export interface DeleteAnswer {
  readonly id: string;
  readonly deleted: true;
}

/** `POST /api/documents/{id}/erase`. */
export interface EraseAnswer {
  readonly id: string;
  readonly erased: true;
  /** Keys that were deleted now. */
  readonly keys: number;
  readonly reclaimed: boolean;
}

/** `POST /api/check` and `POST /api/documents/{id}/check`. */
export type CheckAnswer = CheckReport;

/** A `progress` of `POST /api/check`: documents done so far. */
export interface CheckStepAnswer {
  readonly documents: number;
}

export type Point = readonly [time: number, clock: number, bytes: number];

/** When it was made, and its bytes as stored; of a compaction those that it trimmed. */
export interface Mark {
  readonly kind: "snapshot" | "tag" | "compaction";
  readonly name?: string;
  readonly clock: number;
  readonly time: number;
  readonly bytes: number;
}

/** `GET /api/documents/{id}/timeline`. */
export interface TimelineAnswer {
  readonly id: string;
  readonly points: readonly Point[];
  readonly marks: readonly Mark[];
  /** What is kept now. */
  readonly kept: { readonly batches: number; readonly events: number; readonly bytes: number };
  /** Since when compactions are among the marks; `null`: the server hears of none. */
  readonly compactionsSince: number | null;
}

export interface ContentPart {
  /** The name of a root type of Yjs; empty for other models. */
  readonly name: string;
  readonly kind: "text" | "json";
  readonly text: string;
}

/** `GET /api/documents/{id}/content`. */
export interface ContentAnswer {
  readonly id: string;
  readonly clock: number;
  readonly model: string;
  readonly parts: readonly ContentPart[];
}

/** A chain of events of one replica with nothing between them. */
export interface GraphRowAnswer {
  readonly lane: number;
  /** Rows that it comes directly after; negative ones were left out. */
  readonly parents: readonly number[];
  readonly replica: string;
  /** Its events, by their numbers: of the replica where `numbers` says so, else of the document. */
  readonly first: number;
  readonly last: number;
  readonly events: number;
  /** Events that make nothing themselves, like deletions of Yjs, and came after this chain. */
  readonly attached: number;
  /** Events that end a critical version; whether the last one does. */
  readonly critical: number;
  readonly endsCritical: boolean;
  /** It comes after something that is not here. */
  readonly cut: boolean;
  readonly undos: number;
  readonly time: number;
}

/** `GET /api/documents/{id}/graph`. */
export interface GraphAnswer {
  readonly id: string;
  readonly events: number;
  /** Chains, older than those of `rows`, that were left out. */
  readonly omitted: number;
  /** Events that only delete or repeat what was stored before `from`; no row counts them. */
  readonly unplaced: number;
  /** Whether events are numbered by replica or, as clocks are, in the document. */
  readonly numbers: "replica" | "document";
  /** False: events may have come after others of which their bytes say nothing, and are drawn beside them. */
  readonly complete: boolean;
  /** The clock from which on events were looked at; those before are trimmed, or too many. */
  readonly from: number;
  readonly rows: readonly GraphRowAnswer[];
}

/** `POST /api/documents/{id}/snapshots`. */
export interface SnapshotAnswer {
  readonly id: string;
  /** `nothing-to-do`: the newest snapshot covers every event. */
  readonly outcome: "taken" | "nothing-to-do";
  /** Of the snapshot that was taken. */
  readonly clock: number | null;
}

/** `POST /api/documents/{id}/compact`; `progress` of it are `CompactStep`s. */
export type CompactAnswer = CompactResult;
export type CompactStepAnswer = CompactStep;

/** `POST /api/compact`. */
export interface CompactAllAnswer extends Omit<CompactAllResult, "failures" | "stopped"> {
  readonly failures: readonly { readonly id: string; readonly error: Failed }[];
  readonly stopped: NonNullable<CompactAllResult["stopped"]> | null;
}

/** A `progress` of `POST /api/compact`: documents looked at so far, and the id of the one just finished. */
export interface CompactAllStepAnswer {
  readonly seen: number;
  readonly compacted: number;
  readonly failed: number;
  readonly bytesTrimmed: number;
  readonly id: string | null;
}

/** `POST /api/documents/{id}/fork`. */
export type ForkAnswer = ForkResult;

/** `POST /api/documents/{id}/import`. */
export type ImportAnswer = ImportResult;

export interface HistogramAnswer {
  /** Upper bounds in seconds; `counts` has one more, for what is above them all. */
  readonly bounds: readonly number[];
  readonly counts: readonly number[];
  readonly sum: number;
  readonly count: number;
}

/** `GET /api/figures`: counters by name and label since the start, and figures of the moment. */
export interface FiguresAnswer {
  readonly time: number;
  readonly counters: Readonly<Record<string, number>>;
  readonly histograms: Readonly<Record<string, HistogramAnswer>>;
  readonly gauges: Readonly<Record<string, number>>;
}

/** `GET /api/supervisor`. */
export interface SupervisorAnswer {
  readonly supervised: boolean;
  readonly pid: number;
}

/** `POST /api/supervisor/kill`. */
export interface KillAnswer {
  readonly killed: true;
}

/** A `change` of `GET /api/changes`: what has changed since the one before. */
export interface ChangeAnswer {
  readonly documents: readonly string[];
  /** Others have changed as well, or may have. */
  readonly others: boolean;
  /** About once a second, for those who asked for them. */
  readonly figures?: FiguresAnswer;
}
