/**
 * Answers that take long, as server-sent events where the client accepts `text/event-stream`: any number of
 * `progress`, then one `result` or `error`. Others get the result alone, as JSON.
 *
 * Invariants: a client that goes away stops its run; one that reads slowly gets fewer reports of progress,
 * and holds nothing up.
 */

import { streamSSE } from "hono/streaming";
import { answerOf } from "./failures.js";
import type { AppContext, Site } from "./requests.js";

/** Runs to the end and answers with the result, or streams the progress as well. */
export async function long<Result extends object, Progress extends object>(
  site: Pick<Site, "onError">,
  context: AppContext,
  work: (signal: AbortSignal, tell: (progress: Progress) => void) => Promise<Result>,
): Promise<Response> {
  const { signal } = context.req.raw;
  if (!context.req.header("accept")?.includes("text/event-stream"))
    return context.json(await work(signal, () => undefined));
  context.header("X-Accel-Buffering", "no");
  return streamSSE(context, async (stream) => {
    const stop = new AbortController();
    stream.onAbort(() => stop.abort(new Error("the client went away")));
    let writing: Promise<void> | undefined;
    const write = (event: string, data: object) => stream.writeSSE({ event, data: JSON.stringify(data) });
    let next: Progress | undefined;
    const tell = (progress: Progress): void => {
      next = progress;
      writing ??= (async () => {
        while (next !== undefined) {
          const told = next;
          next = undefined;
          await write("progress", told);
        }
      })().finally(() => {
        writing = undefined;
      });
    };
    try {
      const result = await work(stop.signal, tell);
      await writing;
      await write("result", result);
    } catch (error) {
      const { body, isInternal } = answerOf(error);
      if (isInternal && !stop.signal.aborted) site.onError(error, {});
      await writing;
      await write("error", body.error);
    }
  });
}
