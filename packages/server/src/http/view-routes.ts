/**
 * `/api/documents/{id}/content`, `…/timeline`, `…/graph`: a document as a person looks at it. They are made
 * for the page, and change nothing. A content costs one load of the document, a timeline one pass over its
 * history, a graph a load or one pass over its newest events.
 */

import { GraphDocument } from "coppice";
import type { Hono } from "hono";
import type { ContentAnswer, GraphAnswer, TimelineAnswer } from "./answers.js";
import { contentOf } from "./content.js";
import { infoOf, momentOf } from "./document-routes.js";
import { HttpFailure } from "./failures.js";
import { keptGraph, linkedGraph } from "./graph.js";
import { type AppEnv, idOf, notFoundAt, numberOf, pageOf, permit, type Site } from "./requests.js";
import { timelineOf } from "./timeline.js";

const PATH = "/api/documents/:id";
const POINTS = 300;

export function addViewRoutes(app: Hono<AppEnv>, site: Site): void {
  app.get(`${PATH}/content`, permit(site, "read"), async (context) => {
    const id = idOf(context);
    const at = momentOf(context);
    return loaded(site, id, at === undefined ? {} : { at }, ({ doc, clock, model }) =>
      context.json({ id, clock, model, parts: contentOf(doc) } satisfies ContentAnswer),
    );
  });
  app.get(`${PATH}/timeline`, permit(site, "read"), async (context) => {
    const info = await infoOf(site, idOf(context));
    const wanted = Math.max(2, Math.min(numberOf(context, "points") ?? POINTS, site.limits.pageEntriesMax));
    const { signal } = context.req.raw;
    return context.json((await timelineOf(site, info, wanted, signal)) satisfies TimelineAnswer);
  });
  app.get(`${PATH}/graph`, permit(site, "read"), async (context) => {
    const info = await infoOf(site, idOf(context));
    const limit = pageOf(context, site.limits);
    const linked = await linkedGraph(site, info, limit, context.req.raw.signal);
    if (linked !== undefined) return context.json(linked satisfies GraphAnswer);
    return loaded(site, info.id, {}, ({ doc }) => {
      if (doc instanceof GraphDocument)
        return context.json(keptGraph(info.id, doc, limit) satisfies GraphAnswer);
      const message = `documents of the model ${info.model} have no event graph here`;
      throw new HttpFailure(422, "TRAIT_MISSING", message);
    });
  });
}

async function loaded<T>(
  site: Site,
  id: string,
  options: Parameters<Site["storage"]["load"]>[1],
  use: (handle: { readonly doc: unknown; readonly clock: number; readonly model: string }) => T,
): Promise<T> {
  const handle = await site.storage.load(id, options);
  if (handle === undefined) throw await notFoundAt(site, id, options?.at);
  try {
    return use(handle);
  } finally {
    await handle.close({ discard: true });
  }
}
