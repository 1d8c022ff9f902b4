// A crash at every step of a write while automerge-repo saves increments and compacts: it saves a snapshot and then
// removes, one by one, the chunks that it covers. What it was told is saved is there afterwards.

import * as Automerge from "@automerge/automerge";
import { type DocumentId, generateAutomergeUrl, parseAutomergeUrl, Repo } from "@automerge/automerge-repo";
import { DocumentStorage, never } from "coppice";
import {
  type Keep,
  type SimulatedBackend,
  seededRandom,
  simulatedBackend,
  simulatedEnv,
} from "coppice/testing";
import { describe, expect, test } from "vitest";
import { AutomergeRepoDocuments, AutomergeRepoStorage, automerge, type RepoStorage } from "../src/index.js";

const SEED = Number(process.env.COPPICE_SEED ?? 1);

type Note = { text: string; lines: string[] };

/** A store and what is the matter with it. */
interface Opened {
  readonly adapter: RepoStorage;
  check(): Promise<readonly unknown[]>;
  /** Whether what automerge-repo asked to remove went. */
  trimmed(): Promise<boolean>;
  close(): Promise<void>;
}

const ADAPTERS: Record<string, (backend: SimulatedBackend) => Promise<Opened>> = {
  AutomergeRepoStorage: async (backend) => {
    const storage = await AutomergeRepoStorage.open(backend);
    return {
      adapter: storage,
      check: async () => [],
      trimmed: async () => (await storage.loadRange([])).length < 5,
      close: () => storage.close(),
    };
  },
  AutomergeRepoDocuments: async (backend) => {
    const storage = await DocumentStorage.open({
      backend,
      models: [automerge()],
      snapshotPolicy: never,
      env: simulatedEnv(SEED, { autoAdvance: true }),
    });
    const others = await AutomergeRepoStorage.open(simulatedBackend());
    const adapter = new AutomergeRepoDocuments(storage, others);
    return {
      adapter,
      check: async () => (await storage.check()).problems,
      trimmed: async () => {
        for await (const id of storage.list()) return (await storage.info(id))?.snapshotClock !== undefined;
        return false;
      },
      close: () => adapter.close(),
    };
  },
};

const noise = (count: number, seed: number) => {
  const random = seededRandom(seed);
  return Array.from({ length: count }, () => String.fromCharCode(33 + random.int(90))).join("");
};

/** Saves a document again and again. Calls back before and after each save, and at each compaction. */
async function workload(
  adapter: RepoStorage,
  id: DocumentId,
  told: { saving?: (line: string) => void; saved?: (line: string) => void; compacted?: () => void },
): Promise<void> {
  const storage = new Repo({ storage: adapter }).storageSubsystem!;
  // The Repo asks for it as well, and waits for nobody: a crash meanwhile would be told to no one.
  await storage.id();
  storage.on("doc-compacted", () => told.compacted?.());
  let doc = Automerge.from<Note>({ text: noise(3500, SEED), lines: [] }, "aa".repeat(16));
  for (let i = 0; i < 6; i++) {
    const line = `line ${i}`;
    doc = Automerge.change(doc, { time: 0 }, (note) => {
      note.lines.push(line);
      Automerge.splice(note as Automerge.Doc<Note>, ["text"], 0, 0, noise(3500, SEED + i + 1));
    });
    told.saving?.(line);
    await storage.saveDoc(id, doc);
    told.saved?.(line);
  }
}

describe.for(Object.keys(ADAPTERS))("%s", (name) => {
  const open = ADAPTERS[name]!;
  const id = parseAutomergeUrl(generateAutomergeUrl()).documentId;

  async function crashed(at: number, keep: Keep): Promise<boolean> {
    const backend = simulatedBackend({ seed: SEED + at });
    const [saving, saved] = [[] as string[], [] as string[]];
    const known = { saving: (line: string) => saving.push(line), saved: (line: string) => saved.push(line) };
    backend.crashAt(at, { keep });
    const died = await backend.untilCrash(async () => {
      const { adapter, close } = await open(backend);
      await workload(adapter, id, known as never);
      await close();
    });
    backend.heal();
    const { adapter, check, close } = await open(backend);
    const storage = new Repo({ storage: adapter }).storageSubsystem!;
    const doc = await storage.loadDoc<Note>(id);
    const lines = [...(doc?.lines ?? [])];
    expect(lines.slice(0, saved.length)).toEqual(saved);
    expect(saving.slice(0, lines.length)).toEqual(lines);
    // And it goes on from there, through another compaction.
    let next = doc ?? Automerge.from<Note>({ text: "", lines: [] });
    for (let i = 0; i < 2; i++) {
      next = Automerge.change(next, (note) => void note.lines.push(noise(1000, i)));
      await storage.saveDoc(id, next);
    }
    expect(Automerge.getHeads((await new Repo({ storage: adapter }).storageSubsystem!.loadDoc(id))!)).toEqual(
      Automerge.getHeads(next),
    );
    expect(await check()).toEqual([]);
    await close();
    return died;
  }

  test("[AM26] no save that was acknowledged is lost at any crash point, and none is half there", async () => {
    let compactions = 0;
    const steps: number[] = [];
    const quiet = simulatedBackend({
      seed: SEED,
      onOperation: ({ index, kind }) => {
        if (kind === "commit" || kind === "sync" || kind === "reply") steps.push(index);
      },
    });
    const opened = await open(quiet);
    await workload(opened.adapter, id, { compacted: () => compactions++ });
    expect(await opened.trimmed()).toBe(true);
    await opened.close();
    // The first save is one too.
    expect(compactions).toBeGreaterThan(1);
    let crashes = 0;
    for (const at of steps) if (await crashed(at, at % 2 === 0 ? "none" : "all")) crashes++;
    expect(crashes).toBeGreaterThan(20);
    expect(crashes).toBeGreaterThan(steps.length * 0.9);
  }, 300_000);
});
