// `coppice start` in processes of its own: samples, restarts, and the way it ends.
import { spawn } from "node:child_process";
import { createServer } from "node:net";
import { join } from "node:path";
import { yjs } from "@coppice/yjs";
import { DocumentStorage, memoryBackend, tree } from "coppice";
import { simulatedBackend } from "coppice/testing";
import { afterEach, describe, expect, test } from "vitest";
import { PlainText } from "../src/replay/plain-text.js";
import type { Runtime } from "../src/runtime.js";
import { author } from "../src/start/author.js";
import { landSamples, sampleSource } from "../src/start/samples.js";
import { listenOnce } from "../src/start/supervisor.js";
import {
  cleanUp,
  coppice,
  entry,
  jsonLines,
  type Started,
  start,
  temporaryDirectory,
  until,
} from "./command.js";

afterEach(cleanUp);

interface Listening {
  readonly url: string;
  readonly pid: number;
  readonly samples: readonly { readonly id: string; readonly events: number }[];
}

async function started(store: string, ...args: readonly string[]): Promise<Started> {
  const child = await start(["start", "--store", store, "--json", "--port", "0", ...args]);
  await child.says('"listening"');
  return child;
}

function listenings({ seen }: Started): Listening[] {
  const lines = jsonLines(seen()) as { event: string }[];
  return lines.filter(({ event }) => event === "listening") as unknown as Listening[];
}

async function stop(child: Started): Promise<void> {
  child.child.kill("SIGTERM");
  const { code, stderr } = await child.ended;
  expect([code, stderr]).toEqual([0, ""]);
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    expect((error as NodeJS.ErrnoException).code).toBe("ESRCH");
    return false;
  }
}

describe("coppice start", () => {
  test("[CL60] fills an empty store with samples, once, and serves the page's data", async () => {
    const store = `level:${join(await temporaryDirectory(), "new")}`;
    const first = await started(store);
    const [{ url, pid, samples } = {} as Listening] = listenings(first);
    expect(samples.map(({ id }) => id)).toEqual(["paper", "conversation", "component", "trees", "board"]);
    const { documents } = (await (await fetch(`${url}/api/documents?info=true`)).json()) as {
      documents: { id: string; clock: number; changed: number }[];
    };
    for (const { id, events } of samples)
      expect(documents.find((document) => document.id === id)?.clock).toBe(events);
    expect(documents.every(({ changed }) => changed <= Date.now())).toBe(true);
    expect(await (await fetch(`${url}/api/supervisor`)).json()).toEqual({ supervised: true, pid });
    await stop(first);
    expect(isAlive(pid)).toBe(false);
    const second = await started(store);
    expect(listenings(second)[0]?.samples).toEqual([]);
    await stop(second);
    expect((await coppice(["check", "--store", store])).code).toBe(0);
  });

  test("[CL63] a start that is interrupted at any operation leaves whole samples, and the next one brings the others", async () => {
    const out = { env: {}, signal: new AbortController().signal, entry: await entry() };
    const { source, samples } = await sampleSource(out as unknown as Runtime);
    const whole = new Map(samples.map(({ id, events }) => [id, events]));
    let operations = 0;
    let crashAt = Number.POSITIVE_INFINITY;
    const disk = () => {
      const backend = simulatedBackend({
        onOperation: ({ index }) => {
          operations = index + 1;
          if (index === crashAt) backend.crash();
        },
      });
      return backend;
    };
    const open = (backend: ReturnType<typeof disk>) =>
      DocumentStorage.open({ backend, models: [yjs(), tree()] });
    const land = async (storage: DocumentStorage) =>
      (await landSamples(source, storage, samples, out.signal)).map(({ id }) => id);
    const first = await open(disk());
    expect(await land(first)).toEqual([...whole.keys()]);
    expect(await land(first)).toEqual([]);
    const total = operations;
    for (let at = 1; at < total; at += 1 + Math.floor(total / 12)) {
      const backend = disk();
      crashAt = at;
      const storage = await open(backend);
      // A process that has crashed hears nothing more.
      await Promise.race([land(storage), until("it crashed", () => operations > at)]).catch(() => undefined);
      crashAt = Number.POSITIVE_INFINITY;
      const next = await open(backend);
      const left: string[] = [];
      for await (const id of next.list()) {
        left.push(id);
        expect([id, (await next.info(id))?.clock]).toEqual([id, whole.get(id)]);
      }
      const landed = await land(next);
      expect([...left, ...landed].sort()).toEqual([...whole.keys()].sort());
      for (const [id, events] of whole) expect((await next.load(id))?.clock).toBe(events);
      expect((await next.check()).problems).toEqual([]);
      await next.close();
    }
    await first.close();
    await source.close();
  });

  test("[CL63] samples are added to nothing but samples, and what was deleted stays so", async () => {
    const out = { env: {}, signal: new AbortController().signal, entry: await entry() };
    const { source, samples } = await sampleSource(out as unknown as Runtime);
    const open = () => DocumentStorage.open({ backend: memoryBackend(), models: [yjs(), tree()] });
    const land = (storage: DocumentStorage) => landSamples(source, storage, samples, out.signal);
    const theirs = await open();
    await (await theirs.open("paper")).close();
    expect(await land(theirs)).toEqual([]);
    const ours = await open();
    await ours.import(source.export("paper"));
    await ours.import(source.export("component"));
    await ours.delete("component");
    expect((await land(ours)).map(({ id }) => id)).toEqual(["conversation", "trees", "board"]);
    await ours.delete("paper");
    expect(await land(ours)).toEqual([]);
    for (const { id } of samples) await ours.delete(id);
    expect(await land(ours)).toEqual([]);
    for (const storage of [theirs, ours, source]) await storage.close();
  });

  test("[CL61] a server that is killed is back at the same address, and ends when its supervisor is killed", async () => {
    const store = `level:${join(await temporaryDirectory(), "new")}`;
    const child = await started(store, "--no-samples");
    const [{ url, pid } = {} as Listening] = listenings(child);
    await fetch(`${url}/api/documents/notes`, { method: "PUT" });
    process.kill(pid, "SIGKILL");
    await until("it is back", () => listenings(child).length === 2);
    const again = listenings(child)[1]!;
    expect(again.url).toBe(url);
    expect((await fetch(`${url}/api/documents/notes`)).status).toBe(200);
    await expect(fetch(`${url}/api/supervisor/kill`, { method: "POST" })).rejects.toThrow();
    await until("it is back again", () => listenings(child).length === 3);
    child.child.kill("SIGKILL");
    await until("the server ended", () => !listenings(child).some((life) => isAlive(life.pid)));
  });

  test("[CL61] what npm started ends when npm's shell is gone", async () => {
    const store = join(await temporaryDirectory(), "new");
    const command = `"${process.execPath}" "${await entry()}" start --json --no-samples --port 0 --store "level:${store}"`;
    const env = { ...process.env, npm_lifecycle_event: "start" };
    const shell = spawn("/bin/sh", ["-c", `${command}; true`], { env, stdio: ["ignore", "pipe", "inherit"] });
    let seen = "";
    shell.stdout.setEncoding("utf8").on("data", (text: string) => {
      seen += text;
    });
    await until("it listens", () => seen.includes('"listening"'));
    const [{ pid } = {} as Listening] = jsonLines(seen) as unknown as Listening[];
    shell.kill("SIGTERM");
    await until("it said so, and is gone", () => seen.includes('"stopped"') && !isAlive(pid));
  });

  test("[CL62] says in plain words where to look, and refuses what would not outlive a kill", async () => {
    const store = `level:${join(await temporaryDirectory(), "new")}`;
    const env = { npm_lifecycle_event: "npx" };
    const child = await start(["start", "--store", store, "--port", "0", "--no-samples"], { env });
    await child.says("Ctrl-C stops it");
    for (const words of ["serves", "look  http", "type  http", "kill -9", "cron  coppice compact"])
      expect(child.seen()).toContain(words);
    const locked = await coppice(["start", "--store", store, "--json"]);
    expect([locked.code, locked.stderr]).toEqual([4, expect.stringContaining("LOCKED")]);
    // Without samples only the server opens the store, and what it says is told as by any other command.
    const bare = ["start", "--store", store, "--port", "0", "--no-samples"];
    const plain = await coppice(bare);
    expect([plain.code, plain.stderr]).toEqual([
      4,
      expect.stringMatching(/^coppice: process \d+ .* has level:.* open\nA store has one owner\..*\n/),
    ]);
    expect(plain.stderr).not.toContain('{"error"');
    const told = jsonLines((await coppice([...bare, "--json"])).stderr);
    expect(told).toMatchObject([{ error: { code: "LOCKED", details: { store } } }]);
    child.child.kill("SIGINT");
    const { code, stdout } = await child.ended;
    expect(code).toBe(0);
    expect(stdout).toContain("stopped; all is saved");
    expect((await coppice(["start", "--store", "memory:"])).code).toBe(2);
    expect((await coppice(["serve", "--supervised", "--store", store])).code).toBe(2);
  });

  test("[CL62] a port that is taken is replaced by a free one", async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve));
    const { port } = taken.address() as { port: number };
    const store = `level:${join(await temporaryDirectory(), "new")}`;
    const args = ["start", "--store", store, "--no-samples", "--port", String(port)];
    const other = await start(args);
    await other.says("Ctrl-C stops it");
    expect(other.seen()).toContain(`port ${port} is taken, or not for us: it is another one\n`);
    expect(other.seen()).not.toContain(`http://127.0.0.1:${port}`);
    const [, pid] = /kill -9 (\d+)/.exec(other.seen()) ?? [];
    const [url] = /http:\/\/[\d.:]+/.exec(other.seen()) ?? [];
    process.kill(Number(pid), "SIGKILL");
    await other.says("back after");
    expect((await fetch(`${url}/readyz`)).status).toBe(200);
    other.child.kill("SIGTERM");
    expect((await other.ended).code).toBe(0);
    await new Promise((resolve) => taken.close(resolve));
    const same = await start([...args, "--json"]);
    await same.says(`http://127.0.0.1:${port}`);
    await stop(same);
  });

  test("[CL61] a server at port 80, which its URL does not say, is back there", async (context) => {
    const refusal = await listenOnce("127.0.0.1", 80).catch((error: Error) => error);
    context.skip(refusal instanceof Error, `nobody may listen at port 80 here: ${refusal}`);
    const store = `file:${join(await temporaryDirectory(), "new")}`;
    const child = await start(["start", "--store", store, "--no-samples", "--port", "80", "--json"]);
    await child.says('"listening"');
    process.kill(listenings(child)[0]!.pid, "SIGKILL");
    await until("it listens again", () => listenings(child).length === 2);
    expect(listenings(child).map(({ url }) => url)).toEqual(["http://127.0.0.1:80", "http://127.0.0.1:80"]);
    await stop(child);
  });

  test("[CL60] the author's text is what the edits make, the same for a seed", () => {
    for (const seed of [1, 2, 3]) {
      const { edits, end } = author(seed, 900);
      const plain = new PlainText("");
      for (const { patches } of edits)
        for (const [position, deleted, inserted] of patches) plain.replace(position, deleted, inserted);
      expect(edits).toHaveLength(900);
      expect(plain.toString()).toBe(end);
      expect(author(seed, 900)).toEqual(author(seed, 900));
    }
  });
});
