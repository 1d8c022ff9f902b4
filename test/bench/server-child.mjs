/**
 * The server that is measured, in a process of its own: argument: the folder of its store. It says where it listens
 * as a line of JSON, answers `facts` on standard input with its memory, its processor time and how long appends took
 * since it was asked last, and ends with `end`. Others reach its store through the control socket.
 */
import { createInterface } from "node:readline";
import { ServerMetrics, serve } from "@coppice/server";
import { offerControl } from "coppice/control";
import { quantile } from "./rounds.mjs";
import { openCoppice } from "./stores.mjs";

const [location, memoryBytesMax] = process.argv.slice(2);
const metrics = new ServerMetrics();
let appends = [];
const observer = {
  ...metrics.observer,
  append: (appended) => {
    appends.push(appended.queuedMs);
    metrics.observer.append(appended);
  },
};
const storage = await openCoppice(location, { observer });
const control = await offerControl(storage, location);
const server = await serve({
  storage,
  metrics,
  port: 0,
  limits: { connectionsPerAddressMax: 10_000, memoryBytesMax: Number(memoryBytesMax) },
});
say({ url: server.url });

for await (const line of createInterface({ input: process.stdin })) {
  if (line === "end") break;
  if (line === "facts") globalThis.gc?.();
  const { rss, heapUsed } = process.memoryUsage();
  const { user, system } = process.cpuUsage();
  const appendP99 = appends.length === 0 ? 0 : quantile(appends, 0.99);
  appends = [];
  say({ rss, heapUsed, processorMs: (user + system) / 1000, appendP99, ...server.gauges() });
}
process.stdin.destroy();
await server.close();
await control.close();
const { problems } = await storage.check();
await storage.close();
metrics.close();
say({ problems: problems.length });

function say(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}
