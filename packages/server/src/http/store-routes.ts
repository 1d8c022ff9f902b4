/**
 * What concerns the whole store: lists, compaction of all, checks, figures.
 * A client that goes away stops its long run between two documents.
 */

import { type CompactAllOptions, type CompactAllResult, isCoppiceError } from "coppice";
import { compactAllAlone } from "coppice/control";
import type { Hono } from "hono";
import type { Gauges } from "../metrics.js";
import type {
  BareDocument,
  CheckAnswer,
  CheckStepAnswer,
  CompactAllAnswer,
  CompactAllStepAnswer,
  DocumentAnswer,
  FiguresAnswer,
  ListAnswer,
} from "./answers.js";
import { facts } from "./document-routes.js";
import { answerOf, failed } from "./failures.js";
import { long } from "./long-runs.js";
import {
  type AppContext,
  type AppEnv,
  flagOf,
  numberOf,
  pageOf,
  permit,
  type Site,
  textOf,
} from "./requests.js";

export function addStoreRoutes(app: Hono<AppEnv>, site: Site, gauges: () => Promise<Gauges>): void {
  const { storage, metrics } = site;
  app.get("/api/documents", permit(site, "read"), (context) => list(site, context));
  app.post("/api/compact", permit(site, "admin"), (context) => {
    const options = compactOptions(context);
    return long<CompactAllAnswer, CompactAllStepAnswer>(site, context, (signal, tell) =>
      compactAllAlone(storage, {
        ...options,
        signal,
        onProgress: ({ seen, compacted, failed, bytesTrimmed, result }) =>
          tell({ seen, compacted, failed, bytesTrimmed, id: result?.id ?? null }),
      }).then((result) => {
        if (!options.dryRun) metrics.count("compactions_failed", result.failed);
        return summary(result);
      }),
    );
  });
  app.post("/api/check", permit(site, "admin"), (context) =>
    long<CheckAnswer, CheckStepAnswer>(site, context, (signal, tell) =>
      storage.check({ signal, onProgress: (documents) => tell({ documents }) }),
    ),
  );
  app.get("/api/figures", permit(site, "read"), async (context) =>
    context.json(metrics.figures(await gauges()) satisfies FiguresAnswer),
  );
  app.get("/metrics", permit(site, "read"), async (context) => {
    context.header("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
    return context.body(metrics.text(await gauges()));
  });
}

async function list(site: Site, context: AppContext): Promise<Response> {
  const { storage, documents, limits } = site;
  const limit = pageOf(context, limits);
  const prefix = textOf(context, "prefix");
  const after = textOf(context, "after");
  const withInfo = flagOf(context, "info");
  const found: (DocumentAnswer | BareDocument)[] = [];
  let last: string | undefined;
  let isMore = false;
  const options = {
    ...(prefix === undefined ? {} : { prefix }),
    ...(after === undefined ? {} : { after }),
    limit: limit + 1,
  };
  for await (const id of storage.list(options)) {
    isMore = found.length === limit;
    if (isMore) break;
    last = id;
    const connections = documents.get(id)?.connections.size ?? 0;
    found.push(withInfo ? await look(site, id, connections) : { id, connections });
  }
  const answer: ListAnswer = { documents: found, next: isMore ? (last ?? null) : null };
  return context.json(answer);
}

/** A damaged document is listed with its error. */
async function look(
  { storage }: Site,
  id: string,
  connections: number,
): Promise<DocumentAnswer | BareDocument> {
  try {
    const info = await storage.info(id);
    return info === undefined ? { id, deleted: true, connections } : facts(info, connections);
  } catch (error) {
    if (!isCoppiceError(error) || error.kind === "closed") throw error;
    return { id, error: answerOf(error).body.error, connections };
  }
}

function compactOptions(context: AppContext): CompactAllOptions {
  const prefix = textOf(context, "prefix");
  const numbers = Object.fromEntries(
    (["minEvents", "idleMs", "concurrency", "budgetMs"] as const)
      .map((name) => [name, numberOf(context, name)] as const)
      .filter(([, value]) => value !== undefined),
  );
  return {
    ...numbers,
    ...(prefix === undefined ? {} : { prefix }),
    force: flagOf(context, "force"),
    dryRun: flagOf(context, "dryRun"),
    reclaim: flagOf(context, "reclaim"),
  };
}

function summary(result: CompactAllResult): CompactAllAnswer {
  const failures = result.failures.map(({ id, error }) => ({
    id,
    error: isCoppiceError(error) ? answerOf(error).body.error : failed("REFUSED", error),
  }));
  return { ...result, failures, stopped: result.stopped ?? null };
}
