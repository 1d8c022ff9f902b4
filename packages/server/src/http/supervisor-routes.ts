/**
 * `/api/supervisor`: whether a supervisor starts this process again when it dies, and the way to let it
 * die.
 *
 * Invariants: without a supervisor there is nothing to call; with one, only administrators on this machine
 * may.
 */

import type { Hono } from "hono";
import { isLoopback } from "../access.js";
import type { KillAnswer, SupervisorAnswer } from "./answers.js";
import { HttpFailure } from "./failures.js";
import { type AppEnv, permit, type Site } from "./requests.js";

/** What `serve({ supervisor })` takes. */
export interface Supervisor {
  /** Ends this process at once and unsaved, as `kill -9` does. Somebody must start it again. */
  readonly kill: () => void;
}

export function addSupervisorRoutes(app: Hono<AppEnv>, site: Site, supervisor: Supervisor | undefined): void {
  app.get("/api/supervisor", permit(site, "read"), (context) =>
    context.json({ supervised: supervisor !== undefined, pid: process.pid } satisfies SupervisorAnswer),
  );
  app.post("/api/supervisor/kill", permit(site, "admin"), (context) => {
    if (supervisor === undefined)
      throw new HttpFailure(404, "NOT_FOUND", "no supervisor would start this server again");
    if (!isLoopback(context.env.incoming.socket.remoteAddress ?? ""))
      throw new HttpFailure(403, "FORBIDDEN", "only from this machine");
    supervisor.kill();
    return context.json({ killed: true } satisfies KillAnswer);
  });
}
