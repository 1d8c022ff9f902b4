/**
 * `/api/documents/{id}/export` and `…/import`: one document with its history as a file that checks itself,
 * out of a store and into one that is in use. Both are streams, of which the server holds a part at a time.
 *
 * Invariants: an export that fails on the way breaks its connection off, and what came of it is no export; an
 * import is whole or not at all, and never takes the place of a document; clients that wait for the document
 * get it.
 */

import type { Hono } from "hono";
import { MS_MAX } from "../limits.js";
import type { ImportAnswer } from "./answers.js";
import { momentOf } from "./document-routes.js";
import { answerOf, HttpFailure } from "./failures.js";
import {
  type AppContext,
  type AppEnv,
  bodyStream,
  flagOf,
  idOf,
  notFoundAt,
  permit,
  type Site,
} from "./requests.js";

const PATH = "/api/documents/:id";
/**
 * So many times `slowMs`: the system buffers megabytes, and tells in steps of megabytes that they were taken.
 * Who takes 20 KiB a second seems to take nothing for minutes.
 */
const WAITS = 10;

export function addTransferRoutes(app: Hono<AppEnv>, site: Site): void {
  const { storage, documents, changes, limits } = site;
  let imports = 0;
  app.get(`${PATH}/export`, permit(site, "read"), (context) => exportTo(site, context));
  app.post(`${PATH}/import`, permit(site, "write"), async (context) => {
    const id = idOf(context);
    const recreate = flagOf(context, "recreate");
    // Each may hold the largest frame of an export.
    if (imports >= limits.importsMax)
      throw new HttpFailure(503, "BUSY", `${limits.importsMax} imports are under way already: repeat it`);
    imports++;
    try {
      const result = await storage.import(bodyStream(context, limits.importBytesMax), { id, recreate });
      if (result.outcome === "imported") changes.note(id);
      // Somebody may have come before there was a document.
      documents.get(id)?.look();
      return context.json(result satisfies ImportAnswer);
    } finally {
      imports--;
    }
  });
}

async function exportTo(site: Site, context: AppContext): Promise<Response> {
  const id = idOf(context);
  const at = momentOf(context);
  const chunks = site.storage.export(id, at === undefined ? {} : { at });
  const first = await chunks.next();
  if (first.done) throw await notFoundAt(site, id, at);
  context.header("Content-Type", "application/octet-stream");
  context.header("Content-Disposition", 'attachment; filename="document.coppice"');
  if (context.req.method === "HEAD") {
    await chunks.return(undefined);
    return context.body(null);
  }
  return context.body(streamOf(site, context, first.value, chunks));
}

/** As fast as it is read. Who goes away ends it, and so does who takes nothing of it for long. */
function streamOf(
  { onError, limits }: Site,
  context: AppContext,
  first: Uint8Array,
  chunks: AsyncGenerator<Uint8Array>,
): ReadableStream<Uint8Array> {
  const id = idOf(context);
  const { socket } = context.env.incoming;
  let isGone = false;
  // Node ends a connection to which it can write nothing for so long. The store may need longer for a part.
  const wait = (ms: number) => socket.setTimeout(Math.min(ms * WAITS, MS_MAX));
  return new ReadableStream<Uint8Array>({
    start: (controller) => {
      controller.enqueue(first);
      wait(limits.slowMs);
    },
    pull: async (controller) => {
      try {
        wait(0);
        const { done, value } = await chunks.next();
        if (isGone) return;
        wait(limits.slowMs);
        if (done) controller.close();
        else controller.enqueue(value);
      } catch (error) {
        if (answerOf(error).isInternal) onError(error, { document: id });
        // An error of the stream would send its message, and end the answer as if it were whole.
        socket.destroy();
      }
    },
    cancel: async () => {
      isGone = true;
      await chunks.return(undefined);
    },
  });
}
