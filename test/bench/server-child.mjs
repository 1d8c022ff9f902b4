/**
 * The server that is measured, in a process of its own: argument: the folder of its store. It says where it listens
 * as a line of JSON, answers `facts` on standard input with its memory and processor time, and ends with `end`.
 */
import { createInterface } from "node:readline";
import { ServerMetrics, serve } from "@coppice/server";
import { openCoppice } from "./stores.mjs";

const [location, memoryBytesMax] = process.argv.slice(2);
const metrics = new ServerMetrics();
const storage = await openCoppice(location, { observer: metrics.observer });
const server = await serve({
  storage,
  metrics,
  port: 0,
  limits: { connectionsPerAddressMax: 10_000, memoryBytesMax: Number(memoryBytesMax) },
});
say({ url: server.url });

for await (const line of createInterface({ input: process.stdin })) {
  if (line === "end") break;
  globalThis.gc?.();
  const { rss, heapUsed } = process.memoryUsage();
  const { user, system } = process.cpuUsage();
  say({ rss, heapUsed, processorMs: (user + system) / 1000, ...server.gauges() });
}
process.stdin.destroy();
await server.close();
const { problems } = await storage.check();
await storage.close();
metrics.close();
say({ problems: problems.length });

function say(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}
