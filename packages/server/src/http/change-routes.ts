/**
 * `/api/changes`: tells of changes in the store as they happen, as server-sent events, until the client goes.
 *
 * A `change` names documents that have changed, or says that others have; with `figures=true` it also
 * brings the metrics, about once a second. There are at most four messages a second, and at least one every
 * `pingMs`.
 */

import type { Hono } from "hono";
import { streamSSE } from "hono/streaming";
import type { ChangeAnswer } from "./answers.js";
import { HttpFailure } from "./failures.js";
import { type AppContext, type AppEnv, flagOf, isAllowed, permit, type Site } from "./requests.js";

export function addChangeRoutes(app: Hono<AppEnv>, site: Site): void {
  app.get("/api/changes", permit(site, "read"), (context) => watch(site, context));
}

function watch(site: Site, context: AppContext): Response {
  const { changes, limits } = site;
  const wantsFigures = flagOf(context, "figures");
  if (changes.since === undefined)
    throw new HttpFailure(422, "TRAIT_MISSING", "the storage of this server tells it of no changes");
  if (changes.watcherCount >= limits.watchersMax)
    throw new HttpFailure(503, "BUSY", `${limits.watchersMax} others watch already: ask again now and then`);
  context.header("X-Accel-Buffering", "no");
  // Nobody would read the stream of a HEAD, nor end it.
  if (context.req.method === "HEAD") return context.body(null, 200, { "Content-Type": "text/event-stream" });
  return streamSSE(context, async (stream) => {
    const { socket } = context.env.incoming;
    await new Promise<void>((resolve) => {
      const port = {
        send: (change: ChangeAnswer) => stream.writeSSE({ event: "change", data: JSON.stringify(change) }),
        // What a client does not read keeps the stream from ending.
        end: (isCut: boolean) => {
          if (isCut) socket.destroy();
          resolve();
        },
        mayGoOn: () => isAllowed(site, context, undefined, "read"),
      };
      const leave = changes.watch(port, wantsFigures);
      if (leave === undefined) resolve();
      else
        stream.onAbort(() => {
          leave();
          resolve();
        });
    });
  });
}
