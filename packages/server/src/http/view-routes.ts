/**
 * `/api/documents/{id}/content`, `…/timeline`, `…/graph`: a document as a person looks at it. They are made
 * for the page, and change nothing. A content and a graph cost one load of the document, a timeline one
 * pass over its history.
 */

import { GraphDocument, type GraphPiece, type GraphRow, layOutGraph } from "coppice";
import type { Hono } from "hono";
import type { ContentAnswer } from "./answers.js";
import { partsOf } from "./content.js";
import { infoOf, momentOf } from "./document-routes.js";
import { HttpFailure } from "./failures.js";
import {
  type AppContext,
  type AppEnv,
  idOf,
  notFound,
  numberOf,
  pageOf,
  permit,
  type Site,
} from "./requests.js";
import { timelineOf } from "./timeline.js";

const PATH = "/api/documents/:id";
const POINTS = 300;

export function addViewRoutes(app: Hono<AppEnv>, site: Site): void {
  app.get(`${PATH}/content`, permit(site, "read"), async (context) => {
    const id = idOf(context);
    const at = momentOf(context);
    return loaded(site, id, at === undefined ? {} : { at }, ({ doc, clock, model }) =>
      context.json({ id, clock, model, parts: partsOf(doc) } satisfies ContentAnswer),
    );
  });
  app.get(`${PATH}/timeline`, permit(site, "read"), async (context) => {
    const info = await infoOf(site, idOf(context));
    const wanted = Math.max(2, Math.min(numberOf(context, "points") ?? POINTS, site.limits.pageEntriesMax));
    return context.json(await timelineOf(site, info, wanted, context.req.raw.signal));
  });
  app.get(`${PATH}/graph`, permit(site, "read"), (context) => {
    const id = idOf(context);
    return loaded(site, id, {}, ({ doc, model }) => graphOf(context, site, id, model, doc));
  });
}

function graphOf(context: AppContext, site: Site, id: string, model: string, doc: unknown): Response {
  if (!(doc instanceof GraphDocument))
    throw new HttpFailure(422, "TRAIT_MISSING", `documents of the model ${model} have no event graph here`);
  const events = doc.events();
  const rows = layOutGraph(events, doc.criticalVersions());
  const omitted = Math.max(0, rows.length - pageOf(context, site.limits));
  const place = new Map(rows.map(({ piece }, index) => [piece, index - omitted]));
  return context.json({
    id,
    events: events.length,
    omitted,
    rows: rows.slice(omitted).map((row) => rowOf(row, place)),
  });
}

/** Parents that were left out are negative. */
function rowOf({ piece, lane }: GraphRow, place: ReadonlyMap<GraphPiece, number>): object {
  const [first, last] = [piece.events[0]!, piece.events.at(-1)!];
  return {
    lane,
    parents: piece.parents.map((parent) => place.get(parent)!),
    replica: first.replica,
    first: first.sequence,
    last: last.sequence,
    critical: piece.critical,
    endsCritical: piece.last,
    cut: piece.cut,
    undos: piece.events.filter(({ cancels }) => cancels !== undefined).length,
    time: last.time,
  };
}

async function loaded<T>(
  { storage }: Site,
  id: string,
  options: Parameters<Site["storage"]["load"]>[1],
  use: (handle: { readonly doc: unknown; readonly clock: number; readonly model: string }) => T,
): Promise<T> {
  const handle = await storage.load(id, options);
  if (handle === undefined) throw notFound(id);
  try {
    return use(handle);
  } finally {
    await handle.close({ discard: true });
  }
}
