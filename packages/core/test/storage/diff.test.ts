// What a diff reads, and that it is right when the snapshot changes or is damaged between its two reads.

import {
  type Backend,
  type BackendFactory,
  DocumentStorage,
  type Model,
  memoryBackend,
  never,
  type Range,
} from "coppice";
import { expect, test } from "vitest";
import { type NameSet, nameSet, namesIn, naming } from "../../../../test/support/oracle-model.js";

/** A diff as text: the names of the snapshot and those of the events, for whoever does not know the snapshot. */
function diffing(asked: { calls: number }): Model<NameSet> {
  return {
    ...nameSet(),
    diff: ({ version, snapshot, tail }, peer) => {
      asked.calls++;
      if (version !== undefined && snapshot === undefined && peer.length === 0) return undefined;
      const names = [...JSON.parse(snapshot === undefined ? "[]" : new TextDecoder().decode(snapshot))];
      return new TextEncoder().encode(
        JSON.stringify([...names.map(([name]: [string]) => name), ...tail.flatMap(namesIn)]),
      );
    },
  };
}

/** A backend that notes what is scanned, and calls back after a scan of the log. */
function watched() {
  const scans: string[] = [];
  const inner = memoryBackend();
  let waiting: (() => Promise<void>) | undefined;
  let raw: Backend | undefined;
  const backend: BackendFactory = {
    name: "watched",
    open: async (env) => {
      const opened = await inner.open(env);
      raw = opened;
      return {
        traits: opened.traits,
        get: (key) => opened.get(key),
        commit: (batch) => opened.commit(batch),
        reclaim: () => opened.reclaim(),
        close: () => opened.close(),
        scan: async function* (range: Range, options) {
          scans.push(range.space);
          yield* opened.scan(range, options);
          if (range.space !== "events" || options?.reverse || options?.limit !== undefined) return;
          const then = waiting;
          waiting = undefined;
          await then?.();
        },
      };
    },
  };
  const afterLog = (then: () => Promise<void>) => {
    waiting = then;
  };
  return { backend, raw: () => raw!, scans, afterLog };
}

const NOTHING = Uint8Array.of();
const namesOf = (answer: Uint8Array | undefined): unknown => JSON.parse(new TextDecoder().decode(answer));

/** A document with a snapshot of a and b, and c after it. */
async function opened() {
  const asked = { calls: 0 };
  const watching = watched();
  const storage = await DocumentStorage.open({
    backend: watching.backend,
    models: [diffing(asked)],
    snapshotPolicy: never,
  });
  for (const name of ["a", "b"]) await storage.append("d", [naming(name)]);
  await storage.compact("d");
  await storage.append("d", [naming("c")]);
  watching.scans.length = 0;
  return { ...watching, storage, asked };
}

test("[ST76] a diff for a peer that lacks the snapshot reads the log once", async () => {
  const { storage, scans, asked } = await opened();
  expect(namesOf(await storage.diff("d", NOTHING))).toEqual(["a", "b", "c"]);
  expect(asked.calls).toBe(2);
  expect(scans).toEqual(["events", "snapshot"]);
  await storage.close();
});

test("[ST76] compactions and appends between the two reads of a diff leave out nothing", async () => {
  const { storage, afterLog } = await opened();
  afterLog(async () => {
    // The second one takes the snapshot that the diff has begun with.
    for (const name of ["e", "f", "g"]) {
      await storage.append("d", [naming(name)]);
      await storage.compact("d");
    }
  });
  const names = namesOf(await storage.diff("d", NOTHING)) as string[];
  expect(names.slice(0, 3)).toEqual(["a", "b", "c"]);
  await storage.close();
});

test("[ST76] a document that is deleted between the two reads of a diff is not there", async () => {
  const { storage, afterLog } = await opened();
  afterLog(async () => void (await storage.delete("d")));
  expect(await storage.diff("d", NOTHING)).toBeUndefined();
  await storage.close();
});

test("[ST76] a diff from a damaged snapshot rejects, or goes back to what makes up for it", async () => {
  const { storage, afterLog, raw } = await opened();
  const damage = async (newest: boolean) => {
    const parts = [];
    for await (const page of raw().scan({ space: "snapshot", id: "d" })) parts.push(...page);
    const clocks = parts.map(({ key }) => key[2]!);
    const chosen = (newest ? Math.max : Math.min)(...clocks);
    // The bytes, not the record: the first read finds nothing wrong.
    const put = parts.filter(({ key }) => key[2] === chosen && key[3]! % 2 ** 16 > 0);
    await raw().commit({ put: put.map(({ key, value }) => ({ key, value: value.map((byte) => byte ^ 1) })) });
  };
  await storage.compact("d");
  await storage.append("d", [naming("e")]);
  afterLog(() => damage(true));
  expect(namesOf(await storage.diff("d", NOTHING))).toEqual(["a", "b", "c", "e"]);
  await damage(false);
  await expect(storage.diff("d", NOTHING)).rejects.toMatchObject({ code: "CORRUPT" });
  await storage.close();
});
