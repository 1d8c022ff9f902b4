// Two repos, somebody who appends, deletes and recreates behind their backs, and restarts, in random order:
// what a save brought is in the log when it resolves, and whole documents add no change twice.

import * as Automerge from "@automerge/automerge";
import { DocumentStorage, memoryBackend, never } from "coppice";
import fc from "fast-check";
import { expect, test } from "vitest";
import { AutomergeRepoDocuments, AutomergeRepoStorage, automerge } from "../src/index.js";

type Note = { lines: string[] };
type Step = { readonly who: 0 | 1; readonly does: (typeof DEEDS)[number] };

const DEEDS = [
  "edit",
  "edit",
  "whole",
  "whole",
  "increment",
  "early",
  "merge",
  "foreign",
  "delete",
  "restart",
] as const;
const ID = "document";

const steps = fc.array(
  fc.record({ who: fc.constantFrom<(0 | 1)[]>(0, 1), does: fc.constantFrom(...DEEDS) }),
  { minLength: 4, maxLength: 24 },
);

const add = (doc: Automerge.Doc<Note>, line: string) =>
  Automerge.change(doc, { time: 0 }, (note) => void note.lines.push(line));

type Storage = DocumentStorage<readonly [ReturnType<typeof automerge>]>;

class World {
  readonly storage: Storage;
  readonly others: AutomergeRepoStorage;
  readonly docs: [Automerge.Doc<Note>, Automerge.Doc<Note>];
  /** What the last save of each held. */
  readonly saved: [Automerge.Heads, Automerge.Heads] = [[], []];
  /** Clocks go on after a deletion. */
  clock = 0;
  count = 0;
  adapter!: AutomergeRepoDocuments;

  private constructor(storage: Storage, others: AutomergeRepoStorage) {
    this.storage = storage;
    this.others = others;
    const base = Automerge.from<Note>({ lines: [] }, "aa".repeat(16));
    this.docs = [Automerge.clone(base, "bb".repeat(16)), Automerge.clone(base, "cc".repeat(16))];
    this.restart();
  }

  static async create(): Promise<World> {
    const storage = await DocumentStorage.open({
      backend: memoryBackend(),
      models: [automerge()],
      snapshotPolicy: never,
    });
    return new World(storage, await AutomergeRepoStorage.open(memoryBackend()));
  }

  restart(): void {
    this.adapter = new AutomergeRepoDocuments(this.storage, this.others);
  }

  async take({ who, does }: Step): Promise<void> {
    const line = `${this.count++}`;
    if (does === "edit") this.docs[who] = add(this.docs[who], line);
    else if (does === "merge") this.docs[who] = Automerge.merge(this.docs[who], this.docs[1 - who]!);
    else if (does === "restart") this.restart();
    else if (does === "delete") await this.storage.delete(ID);
    else if (does === "foreign") await this.appendForeign(line);
    else if (does === "whole") await this.saveWhole(who);
    else await this.saveIncrement(who, does === "early");
    await this.now();
  }

  private async now(): Promise<number> {
    this.clock = (await this.storage.info(ID))?.clock ?? this.clock;
    return this.clock;
  }

  private async appendForeign(line: string): Promise<void> {
    const handle = await this.storage.load<Automerge.Doc<Note>>(ID);
    if (handle === undefined || handle.doc.lines === undefined) return handle?.close();
    handle.change((doc) => add(doc, line));
    await handle.save();
    await handle.close();
  }

  private async saveWhole(who: 0 | 1): Promise<void> {
    const doc = this.docs[who];
    const before = await this.now();
    const stored = await this.changes();
    await this.adapter.save([ID, "snapshot", "any"], Automerge.save(doc));
    this.saved[who] = Automerge.getHeads(doc);
    const lacking = Automerge.getChangesMetaSince(doc, []).filter(({ hash }) => !stored.has(hash));
    expect(await this.now()).toBe(before + lacking.length);
    const loaded = await this.storage.load<Automerge.Doc<Note>>(ID);
    expect(Automerge.hasHeads(loaded!.doc, Automerge.getHeads(doc))).toBe(true);
    await loaded!.close();
  }

  private async saveIncrement(who: 0 | 1, early: boolean): Promise<void> {
    if (early) this.docs[who] = add(this.docs[who], `${this.count++} early`);
    const doc = this.docs[who];
    const data = early ? Automerge.getLastLocalChange(doc)! : Automerge.saveSince(doc, this.saved[who]);
    if (data.length === 0) return;
    await this.adapter.save([ID, "incremental", "any"], data);
    if (!early) this.saved[who] = Automerge.getHeads(doc);
  }

  /** Hashes of the changes in the log that can be applied. */
  private async changes(): Promise<Set<string>> {
    const loaded = await this.storage.load<Automerge.Doc<Note>>(ID);
    if (loaded === undefined) return new Set();
    const hashes = Automerge.getChangesMetaSince(loaded.doc, []).map(({ hash }) => hash);
    await loaded.close();
    return new Set(hashes);
  }
}

test("[AM27] whatever others do meanwhile, a save leaves in the log what it brought, and whole documents no change twice", () =>
  fc.assert(
    fc.asyncProperty(steps, async (all) => {
      const world = await World.create();
      for (const step of all) await world.take(step);
      expect((await world.storage.check()).problems).toEqual([]);
      await world.adapter.close();
    }),
    { numRuns: 60 },
  ));
