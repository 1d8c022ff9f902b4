/**
 * The server under load: 500 clients in 100 documents, who send 5,000 updates a second in all; the same while
 * `coppice compact --all --force` is called every 5 s by a second process, through the control socket; and 10,000
 * documents that are touched in turn.
 *
 * The server runs in a process of its own, the clients all in this one, over loopback. A client makes real Yjs updates
 * (a keystroke each), asks after each when it is durable, and counts what others send it without applying it. Time to
 * durable is from handing the update to the socket until the answer was read, so it holds the waits of this process as
 * well. Time to append is from when the storage was called until the events were durable, as the server's observer
 * tells. COPPICE_BENCH_SECONDS=60 sends for so long instead of 10 seconds.
 *
 * Invariant: a round counts only if every update was answered as durable and the clocks of all documents add up to the
 * number of updates; else it throws.
 */
import { execFile, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Reader, Writer } from "coppice";
import { WebSocket } from "ws";
import * as Y from "yjs";
import { quantile, summary } from "./rounds.mjs";
import { inFlight } from "./stores.mjs";

const CHILD = fileURLToPath(new URL("server-child.mjs", import.meta.url));
const SECONDS = Number(process.env.COPPICE_BENCH_SECONDS ?? 10);
const DOCUMENTS = 100;
const CLIENTS_EACH = 5;
const RATE = 5_000;
const TICK_MS = 10;
/** Until the code of both processes is compiled. */
const WARM_UP_SECONDS = 5;
/** After the collection of garbage that comes before each measurement of memory, and throws away compiled code. */
const SETTLE_SECONDS = 2;
const COMPACT_EVERY_MS = 5_000;
const COPPICE = fileURLToPath(new URL("../../packages/cli/dist/main.js", import.meta.url));
const ROUNDS_MAX = 3;
const MEMORY = 512 * 2 ** 20;
const SMALL_MEMORY = 32 * 2 ** 20;

export const server = {
  name: "server",
  about: "500 clients in 100 documents, with and without compaction; 10,000 documents in turn",
  run: measure,
};

async function measure({ rounds, quick, scratch, note }) {
  const seconds = quick ? 2 : SECONDS;
  const count = Math.min(rounds, ROUNDS_MAX);
  const results = { plain: [], compacting: [] };
  for (let round = 0; round < count; round++) {
    const location = scratch.fresh();
    const child = await start(location, MEMORY);
    const clients = await connectAll(child.url);
    await load(clients, quick ? 1 : WARM_UP_SECONDS);
    results.plain.push(await phase(child, clients, seconds));
    results.compacting.push(await phase(child, clients, seconds, compactAgain(location)));
    await verify(child, clients);
    for (const { socket } of clients) socket.terminate();
    await child.end();
    note(`  round ${round + 1} of ${count}`);
  }
  const touched = await touch(scratch, quick ? 1_000 : 10_000, note);
  return { rounds: { ...results, touched }, ...report(results, touched) };
}

function report({ plain, compacting }, touched) {
  const of = (list, field) => summary(list.map((result) => result[field]));
  const row = (side, list) => ({
    side,
    rate: of(list, "rate"),
    p50: of(list, "p50"),
    p99: of(list, "p99"),
    append: of(list, "appendP99"),
    max: of(list, "max"),
    processor: of(list, "processor"),
    memory: of(list, "rssGrowth").median,
    rss: of(list, "rss").median,
    compactions: of(list, "compactions").median,
  });
  const ratioOf = (field) => summary(compacting.map((result, round) => result[field] / plain[round][field]));
  const p99 = of(plain, "p99");
  const bounded = touched.at(-1).rss / touched[1].rss;
  return {
    tables: [
      {
        title: "Server: 500 clients in 100 documents, 5,000 updates/s wanted",
        note: "Time to durable as the clients see it; every answer came after a sync. Memory is the server's.",
        columns: [
          ["side", "text"],
          ["rate", "rate", "durable/s"],
          ["p50", "msSpread", "p50 ms"],
          ["p99", "msSpread", "p99 ms"],
          ["max", "msSpread", "max ms"],
          ["append", "msSpread", "append p99 ms"],
          ["processor", "msSpread", "processor, % of one"],
          ["rss", "bytes", "resident"],
          ["memory", "bytes", "resident, growth"],
          ["compactions", "count", "documents compacted"],
        ],
        rows: [row("typing", plain), row("typing beside compactions", compacting)],
      },
      {
        title: `Server: ${touched.at(-1).touched.toLocaleString("en")} documents touched in turn`,
        note: `Connect, type, wait until durable, leave; 32 at a time. At most ${SMALL_MEMORY / 2 ** 20} MiB of documents.`,
        columns: [
          ["touched", "count"],
          ["documents", "count", "in memory"],
          ["bytes", "bytes", "estimated"],
          ["heapUsed", "bytes", "heap"],
          ["rss", "bytes", "resident"],
        ],
        rows: touched,
      },
    ],
    targets: [
      target(
        "time to durable at 5,000 updates/s, p99 in ms, as a share of 50",
        "≤ 1 ×",
        scale(p99, 1 / 50),
        1,
      ),
      target("p99 time to append beside compactions, against without", "≤ 3 ×", ratioOf("appendP99"), 3),
      target("p99 time to durable beside compactions, against without", "≤ 3 ×", ratioOf("p99"), 3),
      target(
        "resident memory after all documents, against after a fifth",
        "≤ 1.3 ×",
        { median: bounded, min: bounded, max: bounded },
        1.3,
      ),
    ],
  };
}

function target(what, wanted, measured, atMost) {
  return { what, wanted, measured, unit: "ratio", met: measured.median <= atMost };
}

function scale({ median, min, max }, factor) {
  return { median: median * factor, min: min * factor, max: max * factor };
}

async function start(location, memoryBytesMax) {
  const child = spawn(process.execPath, ["--expose-gc", CHILD, location, String(memoryBytesMax)], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error("the server ended");
    return JSON.parse(value);
  };
  const { url } = await next();
  return {
    url,
    /** `collected`: garbage is collected before. */
    facts: (collected = true) => {
      child.stdin.write(collected ? "facts\n" : "quick facts\n");
      return next();
    },
    end: async () => {
      child.stdin.write("end\n");
      const { problems } = await next();
      if (problems > 0) throw new Error(`the store has ${problems} problems`);
      await new Promise((resolve) => child.once("close", resolve));
    },
  };
}

async function connectAll(url) {
  const clients = [];
  for (let document = 0; document < DOCUMENTS; document++)
    for (let person = 0; person < CLIENTS_EACH; person++) clients.push(connect(url, `doc-${document}`));
  return Promise.all(clients);
}

/** A client that types; `pending` holds when each mark was sent. */
async function connect(url, id) {
  const doc = new Y.Doc();
  const text = doc.getText("text");
  const socket = new WebSocket(`${url.replace("http", "ws")}/sync/${id}`, { perMessageDeflate: false });
  const client = {
    id,
    doc,
    text,
    socket,
    pending: new Map(),
    mark: 0,
    latencies: [],
    received: 0,
    failed: 0,
  };
  doc.on("update", (update) => {
    socket.send(new Writer().varint(0).varint(2).sized(update).finish());
    client.mark++;
    client.pending.set(client.mark, performance.now());
    socket.send(new Writer(16).varint(100).varint(1).varint(client.mark).finish());
  });
  socket.on("message", (data) => {
    client.received++;
    if (data[0] !== 100) return;
    const reader = new Reader(data);
    const [, what, mark] = [reader.varint(), reader.varint(), reader.varint()];
    if (what !== 1) client.failed++;
    else client.latencies.push(performance.now() - client.pending.get(mark));
    client.pending.delete(mark);
  });
  await new Promise((resolve, reject) => {
    socket.once("open", resolve);
    socket.once("error", reject);
  });
  socket.send(new Writer().varint(0).varint(0).sized(Y.encodeStateVector(doc)).finish());
  return client;
}

/** Sends `RATE` updates a second, evenly over the clients, and waits until all are durable. */
async function load(clients, seconds) {
  const started = performance.now();
  let sent = 0;
  for (;;) {
    const elapsed = performance.now() - started;
    const due = Math.min(RATE * seconds, Math.floor((elapsed * RATE) / 1000));
    for (; sent < due; sent++) {
      const { text } = clients[sent % clients.length];
      text.insert(text.length, "x");
    }
    if (sent >= RATE * seconds) break;
    await new Promise((resolve) => setTimeout(resolve, TICK_MS));
  }
  while (clients.some(({ pending }) => pending.size > 0))
    await new Promise((resolve) => setTimeout(resolve, 1));
  return { sent, ms: performance.now() - started };
}

async function phase(child, clients, seconds, beside) {
  const { rss } = await child.facts();
  await load(clients, SETTLE_SECONDS);
  for (const client of clients) client.latencies = [];
  const before = await child.facts(false);
  const running = beside?.begin();
  const { sent, ms } = await load(clients, seconds);
  const compactions = running === undefined ? 0 : await beside.end(running);
  const { appendP99 } = await child.facts(false);
  const after = await child.facts();
  const latencies = clients.flatMap((client) => client.latencies);
  if (latencies.length !== sent || clients.some(({ failed }) => failed > 0))
    throw new Error(`${sent} updates were sent, ${latencies.length} became durable`);
  return {
    rate: (1000 * sent) / ms,
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
    appendP99,
    max: quantile(latencies, 1),
    processor: (100 * (after.processorMs - before.processorMs)) / ms,
    rss: after.rss,
    rssGrowth: Math.max(0, after.rss - rss),
    compactions,
  };
}

function compactAgain(location) {
  let stopped = false;
  const compactAll = async () => {
    const args = [COPPICE, "compact", "--all", "--force", "--store", `level:${location}`, "--json"];
    const { stdout } = await promisify(execFile)(process.execPath, args);
    const { compacted, failures } = JSON.parse(stdout);
    if (failures.length > 0) throw new Error(stdout);
    return compacted;
  };
  return {
    begin: async () => {
      let compacted = 0;
      while (!stopped) {
        const started = performance.now();
        compacted += await compactAll();
        const rest = started + COMPACT_EVERY_MS - performance.now();
        if (!stopped && rest > 0) await new Promise((resolve) => setTimeout(resolve, rest));
      }
      return compacted;
    },
    end: (running) => {
      stopped = true;
      return running;
    },
  };
}

/** The clocks of all documents add up to the updates that were sent. */
async function verify(child, clients) {
  const response = await fetch(`${child.url}/api/documents?info=true&limit=1000`);
  const { documents } = await response.json();
  const clocks = documents.reduce((sum, { clock }) => sum + clock, 0);
  const typed = clients.reduce((sum, { text }) => sum + text.length, 0);
  if (clocks !== typed) throw new Error(`${typed} updates were sent, ${clocks} are stored`);
}

async function touch(scratch, count, note) {
  const child = await start(scratch.fresh(), SMALL_MEMORY);
  const rows = [{ touched: 0, ...(await child.facts()) }];
  for (let part = 0; part < 5; part++) {
    await inFlight(32, count / 5, async (index) => {
      const client = await connect(child.url, `touched-${part}-${index}`);
      client.text.insert(0, "some text that is typed into each document");
      while (client.pending.size > 0) await new Promise((resolve) => setTimeout(resolve, 1));
      if (client.failed > 0) throw new Error("an update did not become durable");
      client.socket.close();
      client.doc.destroy();
    });
    rows.push({ touched: ((part + 1) * count) / 5, ...(await child.facts()) });
  }
  await child.end();
  note(`  ${count} documents touched`);
  return rows;
}
