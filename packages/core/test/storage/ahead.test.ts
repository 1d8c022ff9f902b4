// Appends that are laid out while the commit before theirs is under way.
import {
  type Backend,
  CoppiceError,
  commitConflict,
  DocumentStorage,
  type Key,
  memoryBackend,
  never,
  systemEnv,
  type Traits,
} from "coppice";
import { expect, test } from "vitest";
import { nameSet, naming } from "../../../../test/support/oracle-model.js";
import { changed } from "./changed-backend.js";

const EVERYBODY = 32;
const turn = () => new Promise((resolve) => setImmediate(resolve));

/** A commit that waits at the backend, and what becomes of it. */
interface Held {
  readonly key: Key;
  readonly end: (how: "done" | "conflict" | "full" | "broken") => void;
}

/** A storage over commits that the test ends, with a clock that it moves; and how often events were encoded. */
async function harness(traits: Partial<Traits> = {}) {
  let now = 0;
  let encoded = 0;
  let isHeld = false;
  const held: Held[] = [];
  const commit =
    (opened: Backend): Backend["commit"] =>
    async (batch) => {
      if (!isHeld) return opened.commit(batch);
      const key = batch.put![0]!.key;
      const how = await new Promise<Parameters<Held["end"]>[0]>((end) => held.push({ key, end }));
      if (how === "conflict") throw commitConflict(key);
      if (how === "full") throw new CoppiceError("STORE_FULL", "full");
      if (how === "broken") throw new Error("broken");
      return opened.commit(batch);
    };
  const plain = nameSet();
  const encode = (events: readonly Uint8Array[]) => {
    encoded++;
    return plain.codec.encode(events);
  };
  const model = { ...plain, codec: { ...plain.codec, encode } };
  const storage = await DocumentStorage.open({
    backend: changed(memoryBackend(), (opened) => ({
      commit: commit(opened),
      traits: { ...opened.traits, ...traits },
    })),
    models: [model],
    snapshotPolicy: never,
    env: { ...systemEnv(), elapsed: () => now },
  });
  await storage.append("d", [naming("first")]);
  isHeld = true;
  const arrived = async () => {
    while (held.length === 0) await turn();
    return held.shift()!;
  };
  return {
    storage,
    held,
    arrived,
    encoded: () => encoded,
    pass: (ms: number) => {
      now += ms;
    },
    release: () => {
      isHeld = false;
      for (const one of held.splice(0)) one.end("done");
    },
  };
}

type Harness = Awaited<ReturnType<typeof harness>>;

const range = (letter: string) => Array.from({ length: EVERYBODY }, (_, n) => `${letter}${n}`);

function write({ storage }: Harness, letter: string): Promise<number>[] {
  return range(letter).map(async (name) => (await storage.append("d", [naming(name)])).clock);
}

/** Half of those who write is under way, for long enough that the other half is laid out as soon as it comes. */
async function firstOfTwo(it: Harness): Promise<Held & { readonly results: Promise<number>[] }> {
  const before = [...write(it, "c"), ...write(it, "d")];
  const all = await it.arrived();
  it.pass(1);
  await turn();
  all.end("done");
  await Promise.all(before);
  const results = write(it, "a");
  const first = await it.arrived();
  await turn();
  it.pass(1);
  return { ...first, results };
}

/** Both halves: the second has just been laid out. */
async function laidOut(
  it: Harness,
): Promise<{ first: Held; results: Promise<PromiseSettledResult<number>[]> }> {
  const first = await firstOfTwo(it);
  const before = it.encoded();
  const results = Promise.allSettled([...first.results, ...write(it, "b")]);
  expect(it.encoded()).toBe(before + 1);
  expect(it.held).toHaveLength(0);
  return { first, results };
}

async function names({ storage }: Harness): Promise<string[]> {
  return [...(await storage.load("d"))!.doc.names.keys()].filter((name) => /^[ab]\d+$/.test(name));
}

test("[ST99] what waits is laid out while the disk works, and goes when the commit before has succeeded", async () => {
  const it = await harness();
  const { first, results } = await laidOut(it);
  const encoded = it.encoded();
  it.pass(1);
  first.end("done");
  const second = await it.arrived();
  expect(second.key).toEqual(["events", "d", 1 + 3 * EVERYBODY]);
  expect(it.encoded()).toBe(encoded);
  second.end("done");
  const clocks = (await results).map((result) => result.status === "fulfilled" && result.value);
  expect(clocks).toEqual(Array.from({ length: 2 * EVERYBODY }, (_, n) => 2 * EVERYBODY + 2 + n));
  expect(await names(it)).toEqual([...range("a"), ...range("b")]);
  await it.storage.close();
});

test("[ST99] unless it has, what was laid out goes back: it is repeated, or fails, with the commit before", async () => {
  for (const [how, poisonsItself, code] of [
    ["conflict", false, "stored"],
    ["broken", false, "stored"],
    ["full", false, "STORE_FULL"],
    ["full", true, "STORE_FULL"],
    ["broken", true, "OUTCOME_UNKNOWN"],
  ] as const) {
    const it = await harness({ poisonsItself });
    const { first, results } = await laidOut(it);
    const last = it.storage.append("d", [naming("last")]).then(
      ({ clock }) => clock,
      () => undefined,
    );
    first.end(how);
    if (code === "stored") {
      const again = await it.arrived();
      expect(again.key).toEqual(first.key);
      again.end("done");
    }
    it.release();
    const outcomes = await results;
    const codes = outcomes.map((result) => (result.status === "rejected" ? result.reason.code : "stored"));
    expect(codes.slice(0, EVERYBODY)).toEqual(Array(EVERYBODY).fill(code));
    const behind = code === "OUTCOME_UNKNOWN" ? "POISONED" : code;
    expect(codes.slice(EVERYBODY)).toEqual(Array(EVERYBODY).fill(behind));
    if (poisonsItself && how === "broken") await it.storage.recover();
    const stored = code === "stored" ? [...range("a"), ...range("b")] : [];
    expect(await names(it)).toEqual(stored);
    const end = 1 + 2 * EVERYBODY + stored.length;
    expect(await last).toBe(code === "stored" ? end + 1 : undefined);
    const next = await it.storage.append("d", [naming("next")]);
    expect(next.clock).toBe(code === "stored" ? end + 2 : end + 1);
    expect((await it.storage.check()).problems).toEqual([]);
    await it.storage.close();
  }
});

test("[ST99] nothing is laid out beside what must know how the commit before ends", async () => {
  for (const special of ["expected", "repeated", "delete"] as const) {
    const it = await harness();
    const { storage, encoded } = it;
    const first = await firstOfTwo(it);
    const commitId = storage.newCommitId();
    const among = {
      expected: () => storage.append("d", [naming("x")], { expected: "no such state" }),
      repeated: () => storage.append("d", [naming("x")], { commitId }),
      delete: () => storage.delete("d"),
    }
      [special]()
      .then(
        () => "done",
        (error) => error.code,
      );
    const before = encoded();
    const results = write(it, "b");
    expect(encoded()).toBe(before);
    first.end("done");
    it.release();
    expect(await among).toBe(special === "expected" ? "HEAD_CONFLICT" : "done");
    if (special === "delete") {
      const outcomes = await Promise.allSettled(results);
      expect(outcomes.map((one) => one.status === "rejected" && one.reason.code)).toEqual(
        Array(EVERYBODY).fill("DELETED"),
      );
    } else {
      await Promise.all(results);
      expect(await names(it)).toEqual([...range("a"), ...range("b")]);
    }
    await storage.close();
  }
});
