/**
 * `/api/documents/{id}…`: one document.
 *
 * Reads change nothing and hold one page. The state goes out in the form of the document's model: of Yjs as
 * a v1 update, which `Y.applyUpdate` takes. A document that is deleted leaves the memory of its clients'
 * server, and its clients are told so: after the deletion, since of one that fails, and of a document that
 * stays, nothing that is unsaved may be lost.
 */

import { type CompactStep, type DocumentInfo, type HistoryEntry, type InfoOptions, toHex } from "coppice";
import type { Hono } from "hono";
import * as Y from "yjs";
import type {
  CheckAnswer,
  CompactAnswer,
  DeleteAnswer,
  DocumentAnswer,
  EraseAnswer,
  EventAnswer,
  EventsAnswer,
  ForkAnswer,
  HistoryAnswer,
  SnapshotAnswer,
  TagAnswer,
  TagsAnswer,
  UntagAnswer,
} from "./answers.js";
import { HttpFailure } from "./failures.js";
import { long } from "./long-runs.js";
import {
  type AppContext,
  type AppEnv,
  assertAllowed,
  bodyOf,
  flagOf,
  idOf,
  lastOf,
  notFound,
  notFoundAt,
  numberOf,
  pageOf,
  permit,
  type Site,
  textOf,
  timeOf,
} from "./requests.js";

const PATH = "/api/documents/:id";
const EMPTY_STATE_VECTOR = Uint8Array.of(0);

export function addDocumentRoutes(app: Hono<AppEnv>, site: Site): void {
  const { storage, documents, changes } = site;
  addReads(app, site);
  addTags(app, site);
  app.put(PATH, permit(site, "write"), async (context) => {
    const id = idOf(context);
    const handle = await storage.open(id, flagOf(context, "recreate") ? { recreate: true } : {});
    await handle.close();
    changes.note(id);
    return context.json(await existing(site, id));
  });
  app.delete(PATH, permit(site, "admin"), async (context) => {
    const id = idOf(context);
    // Also where there was none, or it failed: part of it may be done, and nobody may have been told.
    const existed = await storage.delete(id).finally(() => documents.evictDeleted(id));
    if (!existed) throw notFound(id);
    changes.note(id);
    return context.json({ id, deleted: true } satisfies DeleteAnswer);
  });
  app.post(`${PATH}/erase`, permit(site, "admin"), async (context) => {
    const id = idOf(context);
    const reclaim = textOf(context, "reclaim") === undefined || flagOf(context, "reclaim");
    const erasing = storage.erase(id, { reclaim });
    const { existed, keys } = await erasing.finally(() => documents.evictDeleted(id));
    changes.note(id);
    if (!existed && keys === 0) throw notFound(id);
    return context.json({ id, erased: true, keys, reclaimed: reclaim } satisfies EraseAnswer);
  });
  app.post(`${PATH}/fork`, permit(site, "read"), async (context) => {
    const id = idOf(context);
    const to = textOf(context, "as");
    if (to === undefined) throw new HttpFailure(400, "ARGUMENT_INVALID", "as must name the new document");
    await assertAllowed(site, context, to, "write");
    const at = momentOf(context);
    const { signal } = context.req.raw;
    const recreate = flagOf(context, "recreate");
    const result = await storage.fork(id, to, { signal, recreate, ...(at === undefined ? {} : { at }) });
    if (result === undefined) throw await notFoundAt(site, id, at);
    changes.note(to);
    return context.json(result satisfies ForkAnswer);
  });
  app.post(`${PATH}/snapshots`, permit(site, "admin"), async (context) => {
    const id = idOf(context);
    const handle = await storage.load(id);
    if (handle === undefined) throw notFound(id);
    try {
      const clock = await handle.snapshot();
      const outcome = clock === undefined ? "nothing-to-do" : "taken";
      return context.json({ id, outcome, clock: clock ?? null } satisfies SnapshotAnswer);
    } finally {
      await handle.close();
    }
  });
  app.post(`${PATH}/compact`, permit(site, "admin"), (context) => {
    const id = idOf(context);
    const options = {
      force: flagOf(context, "force"),
      dryRun: flagOf(context, "dryRun"),
      reclaim: flagOf(context, "reclaim"),
    };
    return long<CompactAnswer, CompactStep>(site, context, async (signal, onProgress) => {
      const result = await storage.compact(id, { ...options, signal, onProgress });
      if (result.outcome === "not-found") throw notFound(id);
      return result;
    });
  });
  app.post(`${PATH}/check`, permit(site, "admin"), async (context) => {
    const id = idOf(context);
    const report = await storage.check({ id, signal: context.req.raw.signal });
    if (report.documents === 0 && report.problems.length === 0) throw notFound(id);
    return context.json(report satisfies CheckAnswer);
  });
}

function addTags(app: Hono<AppEnv>, site: Site): void {
  const { storage, changes } = site;
  app.get(`${PATH}/tags`, permit(site, "read"), async (context) => {
    const id = idOf(context);
    await existing(site, id);
    return context.json({ id, tags: await storage.tags(id) } satisfies TagsAnswer);
  });
  app.put(`${PATH}/tags/:name`, permit(site, "write"), async (context) => {
    const id = idOf(context);
    const tag = await storage.tag(id, lastOf(context), numberOf(context, "at"));
    if (tag === undefined) throw notFound(id);
    changes.note(id);
    return context.json({ id, ...tag } satisfies TagAnswer);
  });
  app.delete(`${PATH}/tags/:name`, permit(site, "admin"), async (context) => {
    const id = idOf(context);
    const name = lastOf(context);
    if (!(await storage.untag(id, name)))
      throw new HttpFailure(404, "TAG_UNKNOWN", `there is no tag ${JSON.stringify(name.slice(0, 100))}`);
    changes.note(id);
    return context.json({ id, name, removed: true } satisfies UntagAnswer);
  });
}

function addReads(app: Hono<AppEnv>, site: Site): void {
  app.get(PATH, permit(site, "read"), async (context) =>
    context.json(await existing(site, idOf(context), { usage: flagOf(context, "usage") })),
  );
  app.get(`${PATH}/history`, permit(site, "read"), (context) => history(site, context));
  app.get(`${PATH}/events`, permit(site, "read"), (context) => events(site, context));
  app.get(`${PATH}/state`, permit(site, "read"), async (context) => {
    const id = idOf(context);
    const at = momentOf(context);
    if (at !== undefined) return bytes(context, await past(site, id, at));
    return bytes(context, await diff(site, id, EMPTY_STATE_VECTOR));
  });
  app.post(`${PATH}/diff`, permit(site, "read"), async (context) => {
    const stateVector = await bodyOf(context, site.limits);
    return bytes(context, await diff(site, idOf(context), stateVector));
  });
}

async function existing(site: Site, id: string, options?: InfoOptions): Promise<DocumentAnswer> {
  return facts(await infoOf(site, id, options), site.documents.get(id)?.connections.size ?? 0);
}

export async function infoOf({ storage }: Site, id: string, options?: InfoOptions): Promise<DocumentInfo> {
  const info = await storage.info(id, options);
  if (info === undefined) throw notFound(id);
  return info;
}

/** What is absent is `null`, and stays in the JSON. */
export function facts(info: DocumentInfo, connections: number): DocumentAnswer {
  return {
    ...info,
    snapshotClock: info.snapshotClock ?? null,
    snapshotTime: info.snapshotTime ?? null,
    archivedClock: info.archivedClock ?? null,
    connections,
  };
}

async function history(site: Site, context: AppContext): Promise<Response> {
  const id = idOf(context);
  const limit = pageOf(context, site.limits);
  const from = numberOf(context, "from") ?? 0;
  const entries: HistoryAnswer["entries"][number][] = [];
  let next: number | null = null;
  let reached = -1;
  assertReached(await infoOf(site, id), from);
  for await (const entry of site.storage.history(id)) {
    const last = entry.kind === "batch" ? entry.end - 1 : entry.clock;
    if (last < from) continue;
    // A page begins at a clock: it would begin with what another of the same clock, or batch, began with.
    if (entries.length >= limit && entry.clock > reached) {
      next = entry.clock;
      break;
    }
    reached = Math.max(reached, last);
    entries.push(historyEntry(entry));
  }
  return context.json({ id, entries, next } satisfies HistoryAnswer);
}

function historyEntry(entry: HistoryEntry): HistoryAnswer["entries"][number] {
  if (entry.kind !== "batch") return entry;
  return { ...entry, commitId: hexOf(entry.commitId), info: entry.info ?? null };
}

/** The archive leaves out the ids that storage made. */
function hexOf(commitId: Uint8Array | undefined): string | null {
  return commitId === undefined ? null : toHex(commitId);
}

async function events(site: Site, context: AppContext): Promise<Response> {
  const id = idOf(context);
  const limit = pageOf(context, site.limits);
  const info = await infoOf(site, id);
  const { clock, oldestClock, archivedClock } = info;
  const from = numberOf(context, "from") ?? archivedClock ?? oldestClock;
  assertReached(info, from);
  const last = Math.min(numberOf(context, "to") ?? clock, clock);
  const to = Math.min(last, from + limit);
  const found: EventAnswer[] = [];
  let byteCount = 0;
  for await (const { clock: at, event, time, commitId, info: said } of site.storage.read(id, { from, to })) {
    const payload = event instanceof Uint8Array ? event : undefined;
    byteCount += payload?.length ?? 0;
    found.push({
      clock: at,
      time,
      commitId: hexOf(commitId),
      info: said ?? null,
      event: payload === undefined ? null : Buffer.from(payload).toString("base64"),
    });
    // An answer is held whole: one of large events ends early, and says where the next begins.
    if (byteCount > site.limits.messageBytesMax) break;
  }
  const end = from + found.length;
  return context.json({ id, events: found, next: end < last ? end : null } satisfies EventsAnswer);
}

/** Nothing in answer to a clock after the head would hide that what had that clock is lost. */
function assertReached({ clock }: DocumentInfo, from: number): void {
  if (from <= clock) return;
  const message = `from is ${from}, which lies after the head of the document: its clock is ${clock}`;
  throw new HttpFailure(400, "ARGUMENT_INVALID", message);
}

/** `at`: a clock; `tag`: a name; `time`: a date, or ms since 1970. Of two one would be ignored. */
export function momentOf(context: AppContext): number | string | Date | undefined {
  const given = ["at", "tag", "time"].filter((name) => textOf(context, name) !== undefined);
  if (given.length > 1)
    throw new HttpFailure(400, "ARGUMENT_INVALID", "at, tag and time: one of them at most");
  return numberOf(context, "at") ?? textOf(context, "tag") ?? timeOf(context, "time");
}

async function diff(site: Site, id: string, stateVector: Uint8Array): Promise<Uint8Array> {
  const update = await site.storage.diff(id, stateVector);
  if (update === undefined) throw notFound(id);
  return update;
}

/** The document as it was then. */
async function past(site: Site, id: string, at: number | string | Date): Promise<Uint8Array> {
  const handle = await site.storage.load(id, { at });
  if (handle === undefined) throw await notFoundAt(site, id, at);
  try {
    if (handle.model !== "yjs")
      throw new HttpFailure(422, "TRAIT_MISSING", "past states can be had of Yjs documents alone");
    return Y.encodeStateAsUpdate(handle.doc as Y.Doc);
  } finally {
    await handle.close({ discard: true });
  }
}

function bytes(context: AppContext, body: Uint8Array): Response {
  context.header("Content-Type", "application/octet-stream");
  context.header("Content-Disposition", 'attachment; filename="document.update"');
  return context.body(body as Uint8Array<ArrayBuffer>);
}
