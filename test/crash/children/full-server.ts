/**
 * A server whose disk gets full: the process may not write files beyond a limit that its parent sets, line by line
 * on standard input: `limit <bytes>`, `unlimited`, `end`. It says on standard output where it listens, and at the
 * end what `check` found, as lines of JSON.
 */

import { execFileSync } from "node:child_process";
import { writeSync } from "node:fs";
import { createInterface } from "node:readline";
import { levelBackend } from "@coppice/level";
import { ServerMetrics, serve } from "@coppice/server";
import { yjs } from "@coppice/yjs";
import { DocumentStorage } from "coppice";

const [location = ""] = process.argv.slice(2);
let hasRoom = true;

// Without a listener the signal ends the process; with one the write fails, as on a full disk.
process.on("SIGXFSZ", () => undefined);

const metrics = new ServerMetrics();
const storage = await DocumentStorage.open({
  backend: levelBackend(location),
  models: [yjs()],
  observer: metrics.observer,
});
const errors: string[] = [];
const server = await serve({
  storage,
  metrics,
  port: 0,
  limits: { idleMs: 50 },
  mayRecover: () => hasRoom,
  onError: (error) => errors.push(String(error)),
});
writeSync(1, `${JSON.stringify({ url: server.url })}\n`);

for await (const line of createInterface({ input: process.stdin })) {
  if (line === "end") break;
  hasRoom = line === "unlimited";
  const bytes = line.split(" ")[1] ?? "unlimited";
  execFileSync("prlimit", ["--pid", String(process.pid), `--fsize=${bytes}:`]);
  writeSync(1, `${JSON.stringify({ done: line })}\n`);
}
process.stdin.destroy();
await server.close();
const { problems } = await storage.check();
await storage.close();
metrics.close();
writeSync(1, `${JSON.stringify({ problems, errors })}\n`);
