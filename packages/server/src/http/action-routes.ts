/**
 * `/api/actions`, `/api/documents/{id}/actions`: what the client may do with the whole store, or with one
 * document, whether that exists or not. A page can leave out what would be refused.
 *
 * It promises nothing: every request is authorized by itself, and by then the answer may be another one.
 */

import type { Hono } from "hono";
import type { Action } from "../access.js";
import type { ActionsAnswer } from "./answers.js";
import { type AppContext, type AppEnv, documentOf, isAllowed, permit, type Site } from "./requests.js";

export function addActionRoutes(app: Hono<AppEnv>, site: Site): void {
  const answer = async (context: AppContext) => {
    const document = documentOf(context);
    const may = (action: Action) => isAllowed(site, context, document, action);
    const actions: Action[] = ["read"];
    for (const action of ["write", "admin"] as const) if (await may(action)) actions.push(action);
    return context.json({ id: document ?? null, actions } satisfies ActionsAnswer);
  };
  app.get("/api/actions", permit(site, "read"), answer);
  app.get("/api/documents/:id/actions", permit(site, "read"), answer);
}
