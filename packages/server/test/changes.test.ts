// What watchers of the store are told, and the progress of a compaction.
import { bearerTokens } from "@coppice/server";
import type { ChangeAnswer, CompactStepAnswer, TimelineAnswer } from "@coppice/server/client";
import { afterEach, describe, expect, test } from "vitest";
import * as Y from "yjs";
import { Changes } from "../src/changes.js";
import { SERVER_LIMITS } from "../src/limits.js";
import { atEnd, cleanUp, connect, levelStore, type Running, run, synced, typed, until } from "./support.js";

afterEach(cleanUp);

interface Watch {
  readonly status: number;
  readonly changes: ChangeAnswer[];
  readonly ended: Promise<void>;
  readonly stop: () => void;
  /** Documents that were named so far. */
  readonly named: () => Set<string>;
}

async function* messagesOf(response: Response): AsyncGenerator<{ event: string; data: string }> {
  let rest = "";
  for await (const text of response.body!.pipeThrough(new TextDecoderStream())) {
    const parts = (rest + text).split("\n\n");
    rest = parts.pop() ?? "";
    for (const part of parts) {
      const [, event = "", data = ""] = /^event: (.*)\ndata: (.*)$/.exec(part) ?? [];
      yield { event, data };
    }
  }
}

async function watch({ server }: Running, query = "", headers: Record<string, string> = {}): Promise<Watch> {
  const stop = new AbortController();
  atEnd(() => stop.abort());
  const response = await fetch(`${server.url}/api/changes${query}`, { headers, signal: stop.signal });
  const changes: ChangeAnswer[] = [];
  const read = async () => {
    if (response.status !== 200) return;
    for await (const { event, data } of messagesOf(response)) {
      expect(event).toBe("change");
      changes.push(JSON.parse(data) as ChangeAnswer);
    }
  };
  const ended = read().catch((error: unknown) => {
    if (!stop.signal.aborted) throw error;
  });
  return {
    status: response.status,
    changes,
    ended,
    stop: () => stop.abort(),
    named: () => new Set(changes.flatMap(({ documents }) => documents)),
  };
}

describe("changes", () => {
  test("[SV70] a watcher hears at once that it is heard, and then of what is appended, made, tagged and deleted", async () => {
    const running = await run();
    const watcher = await watch(running);
    await until("it is heard", () => watcher.changes.length === 1);
    expect(watcher.changes[0]).toEqual({ documents: [], others: false });
    const client = await synced(connect(running, "typed"));
    client.text.insert(0, "x");
    await running.storage.append("appended", [typed("x")]);
    await fetch(`${running.server.url}/api/documents/made`, { method: "PUT" });
    await until("all are named", () => ["typed", "appended", "made"].every((id) => watcher.named().has(id)));
    watcher.changes.length = 0;
    await fetch(`${running.server.url}/api/documents/appended/tags/first`, { method: "PUT" });
    await fetch(`${running.server.url}/api/documents/made`, { method: "DELETE" });
    await until("both are named", () => ["appended", "made"].every((id) => watcher.named().has(id)));
    watcher.changes.length = 0;
    await running.storage.delete("appended");
    await until("others have changed", () => watcher.changes.some(({ others }) => others));
    expect(watcher.changes.every((change) => change.figures === undefined)).toBe(true);
  });

  test("[SV70] figures come along about once a second for those who ask, and for nobody else", async () => {
    const running = await run();
    const [one, other] = [await watch(running, "?figures=true"), await watch(running)];
    await running.storage.append("notes", [typed("x")]);
    await until("figures came twice", () => one.changes.filter((change) => change.figures).length === 2);
    const [first, second] = one.changes.flatMap(({ figures }) => (figures === undefined ? [] : [figures]));
    expect(first).toMatchObject({ gauges: { coppice_writable: 1 } });
    expect(second?.counters.events_appended).toBe(1);
    expect(second!.time - first!.time).toBeGreaterThan(700);
    expect(other.changes.some(({ figures }) => figures !== undefined)).toBe(false);
  });

  test("[SV71] however much happens there are few messages; what has no room is told as others", async () => {
    const running = await run({ limits: { changedIdsMax: 5 } });
    const watcher = await watch(running);
    const began = performance.now();
    for (let n = 0; n < 200; n++) await running.storage.append(`doc${n % 40}`, [typed("x")]);
    await until("others are told of", () => watcher.changes.some(({ others }) => others));
    await new Promise((resolve) => setTimeout(resolve, 600));
    const ticks = (performance.now() - began) / 250;
    expect(watcher.changes.length).toBeLessThanOrEqual(ticks + 2);
    expect(watcher.changes.every(({ documents }) => documents.length <= 5)).toBe(true);
  });

  test("[SV71] one that does not read is told of everything at once later, and is cut off when it never does", async () => {
    const running = await run();
    const limits = { ...SERVER_LIMITS, slowMs: 700 };
    const figures = async () => running.metrics.figures(running.server.gauges());
    const hub = new Changes({ limits, metrics: running.metrics, figures, onError: () => undefined });
    atEnd(() => hub.close());
    const sent: ChangeAnswer[] = [];
    let read: () => void = () => undefined;
    const port = {
      send: (change: ChangeAnswer) => {
        sent.push(change);
        return new Promise<void>((resolve) => {
          read = resolve;
        });
      },
      end: (isCut: boolean) => ends.push(isCut),
      mayGoOn: async () => true,
    };
    const ends: boolean[] = [];
    hub.watch(port, false);
    for (const id of ["one", "two"]) await running.storage.append(id, [typed("x")]);
    await new Promise((resolve) => setTimeout(resolve, 400));
    expect([sent.length, ends]).toEqual([1, []]);
    read();
    await until("both are told of", () => sent.length === 2);
    expect([...sent[1]!.documents].sort()).toEqual(["one", "two"]);
    await until("it is cut off", () => ends.length === 1);
    expect([ends, hub.watcherCount]).toEqual([[true], 0]);
  });

  test("[SV72] watchers are bounded, need permission as long as they watch, and end with the server", async () => {
    let isAllowed = true;
    const running = await run({
      limits: { watchersMax: 2, reauthorizeMs: 300 },
      authorize: ({ token }) => isAllowed && token === "a-token-that-reads-00",
    });
    const headers = { authorization: "Bearer a-token-that-reads-00" };
    expect((await watch(running)).status).toBe(401);
    const [one, two] = [await watch(running, "", headers), await watch(running, "", headers)];
    expect((await watch(running, "", headers)).status).toBe(503);
    one.stop();
    await one.ended;
    await until("there is room", async () => {
      const third = await watch(running, "", headers);
      third.stop();
      return third.status === 200;
    });
    isAllowed = false;
    await two.ended;
    isAllowed = true;
    const last = await watch(running, "", headers);
    await running.server.close();
    await last.ended;
    expect(running.server.gauges().connections).toBe(0);
  });

  test("[SV72] a token for some documents may not watch the store; a flag that is none is refused", async () => {
    const token = "a-token-of-the-team-0";
    const running = await run({
      authorize: bearerTokens([{ token, action: "admin", documents: ["team/*"] }]),
    });
    expect((await watch(running, "", { authorization: `Bearer ${token}` })).status).toBe(403);
    expect((await watch(await run(), "?figures=perhaps")).status).toBe(400);
  });
});

test("[SV72] a request for the headers alone watches nothing", async () => {
  const running = await run({ limits: { watchersMax: 1, slowMs: 300 } });
  const url = `${running.server.url}/api/changes`;
  for (let n = 0; n < 3; n++) {
    const { status, headers } = await fetch(url, { method: "HEAD" });
    expect([status, headers.get("content-type")]).toEqual([200, "text/event-stream"]);
  }
  expect((await watch(running)).status).toBe(200);
});

describe("compactions", () => {
  test("[SV73] a compaction of one document tells its steps, then its result", async () => {
    const running = await run({ backend: await levelStore() });
    for (let n = 0; n < 20; n++) await running.storage.append("notes", [typed(String(n))]);
    const url = `${running.server.url}/api/documents/notes/compact?force=true`;
    const headers = { accept: "text/event-stream" };
    const events: { event: string; data: string }[] = [];
    for await (const message of messagesOf(await fetch(url, { method: "POST", headers })))
      events.push(message);
    const steps = events.filter(({ event }) => event === "progress");
    expect(steps.length).toBeGreaterThan(0);
    for (const { data } of steps)
      expect(["reading", "folding", "staging", "verifying", "trimming"]).toContain(
        (JSON.parse(data) as CompactStepAnswer).phase,
      );
    expect(events.at(-1)?.event).toBe("result");
    expect(JSON.parse(events.at(-1)!.data)).toMatchObject({ outcome: "compacted", clock: 20 });
    const none = await fetch(url.replace("notes", "none"), { method: "POST", headers });
    expect(await none.text()).toContain('event: error\ndata: {"code":"NOT_FOUND"');
  });

  test("[SV73] a client that goes away stops the compaction, and the document stays as it was", async () => {
    const running = await run({ backend: await levelStore() });
    for (let n = 0; n < 20; n++) await running.storage.append("notes", [typed(String(n))]);
    const real = running.storage.compact.bind(running.storage);
    let signal: AbortSignal | undefined;
    running.storage.compact = async (id, options = {}) => {
      signal = options.signal;
      // Until the client is gone, so that every step is still to come.
      await until("it is gone", () => signal?.aborted === true);
      return real(id, options);
    };
    const stop = new AbortController();
    const url = `${running.server.url}/api/documents/notes/compact?force=true`;
    const headers = { accept: "text/event-stream" };
    const response = await fetch(url, { method: "POST", headers, signal: stop.signal });
    stop.abort();
    await response.text().catch(() => undefined);
    await until("it was stopped", () => signal?.aborted === true);
    expect(await running.storage.info("notes")).toMatchObject({ oldestClock: 0, snapshotClock: undefined });
  });

  test("[SV74] compactions since the start are marked on the timeline; dry runs and idle ones are not", async () => {
    const running = await run({ backend: await levelStore(), limits: { compactionsMax: 2 } });
    const timeline = async () => {
      const response = await fetch(`${running.server.url}/api/documents/notes/timeline`);
      return (await response.json()) as TimelineAnswer;
    };
    const compactions = async () => (await timeline()).marks.filter(({ kind }) => kind === "compaction");
    for (let round = 1; round <= 3; round++) {
      for (let n = 0; n < 10; n++) await running.storage.append("notes", [typed(String(n))]);
      await running.storage.compact("notes", { dryRun: true, force: true });
      expect(await compactions()).toHaveLength(Math.min(round - 1, 2));
      const { bytesTrimmed } = await running.storage.compact("notes");
      expect((await compactions()).at(-1)).toMatchObject({ clock: 10 * round, bytes: bytesTrimmed });
    }
    expect((await compactions()).map(({ clock }) => clock)).toEqual([20, 30]);
    expect((await timeline()).compactionsSince).toBeLessThanOrEqual(Date.now());
    const doc = new Y.Doc();
    Y.applyUpdate(doc, (await running.storage.diff("notes", Uint8Array.of(0)))!);
    expect(doc.getText("text").length).toBe(30);
  });
});
