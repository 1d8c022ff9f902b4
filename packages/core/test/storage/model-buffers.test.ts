/** A model may use the buffers of what it gives again: what storage keeps is a copy. */

import { DocumentStorage, type Model, memoryBackend, never } from "coppice";
import { expect, test } from "vitest";
import { type NameSet, nameSet, naming } from "../../../../test/support/oracle-model.js";

const ID = "d";
const good = nameSet();

/** Gives the same bytes in one buffer, whatever it is given. */
function reusing(): (bytes: Uint8Array) => Uint8Array {
  const buffer = new Uint8Array(1 << 16);
  return (bytes) => {
    buffer.set(bytes);
    return buffer.subarray(0, bytes.length);
  };
}

/** What differs between the three, in as many bytes. */
const counted = (what: string) => (set: NameSet) =>
  new TextEncoder().encode(`${what}${String(set.names.size).padStart(6, "0")}`);

const [version, peerVersion] = [counted("v"), counted("p")];

function fold(...[snapshot, events]: Parameters<Model<NameSet>["fold"]>) {
  const set = snapshot === undefined ? good.create() : good.restore(snapshot);
  const { held, refused } = good.apply(set, events);
  return {
    snapshot: good.snapshot(set),
    version: version(set),
    peerVersion: peerVersion(set),
    held,
    refused,
  };
}

function open(model: Partial<Model<NameSet>> = {}, backend = memoryBackend({ shared: true })) {
  return DocumentStorage.open({ backend, models: [{ ...good, ...model }], snapshotPolicy: never });
}

type Storage = Awaited<ReturnType<typeof open>>;

async function names(storage: Storage): Promise<string> {
  return [...((await storage.load<NameSet>(ID))?.doc.names.keys() ?? [])].sort().join(" ");
}

test("[ST110] of several events that a compaction keeps beside its snapshot none takes the place of another", async () => {
  const encoded = reusing();
  const codec = {
    ...good.codec,
    encode: (events: readonly Uint8Array[]) => encoded(good.codec.encode(events)),
  };
  const storage = await open({ codec });
  await storage.append(ID, [naming("a"), naming("w1", ["x1"]), naming("w2", ["x2"]), naming("!no")]);
  await storage.append(ID, [naming("b")]);
  expect(await storage.compact(ID, { history: "drop" })).toMatchObject({ outcome: "compacted", held: 3 });
  await storage.append(ID, [naming("x1"), naming("x2")]);
  expect(await names(storage)).toBe("a b w1 w2 x1 x2");
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
});

test("[ST110] a snapshot of a live document is what its model gave, whatever it gives next", async () => {
  for (const take of ["snapshot", "save"] as const) {
    const inOne = reusing();
    const storage = await open({
      snapshot: (set) => inOne(good.snapshot(set)),
      version: (set) => inOne(version(set)),
      peerVersion: (set) => inOne(peerVersion(set)),
      fold,
    });
    for (const name of "abc") await storage.append(ID, [naming(name)]);
    const handle = (await storage.load<NameSet>(ID))!;
    await handle.snapshot();
    if (take === "save") {
      await storage.append(ID, [naming("d")]);
      await handle.refresh();
      await handle.compact();
    }
    expect((await storage.check()).problems).toEqual([]);
    await handle.close();
    await storage.close();
  }
});

test("[ST110] a compaction compares with the version that was folded, not with what came after it", async () => {
  const inOne = reusing();
  const storage = await open({
    version: (set) => inOne(version(set)),
    // Its own results share the buffer: the version is overwritten before it is given.
    fold: (...given) => {
      const folded = fold(...given);
      return { ...folded, version: inOne(folded.version), peerVersion: inOne(folded.peerVersion) };
    },
  });
  for (const name of "abc") await storage.append(ID, [naming(name)]);
  expect(await storage.compact(ID, { history: "drop" })).toMatchObject({ outcome: "refused" });
  expect(await names(storage)).toBe("a b c");
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
});

test("[ST110] two who ask for what they lack get their own answers", async () => {
  const inOne = reusing();
  const storage = await open({ diff: ({ tail }) => inOne(tail[0] as Uint8Array) });
  for (const id of ["x", "y"]) await storage.append(id, [naming(id)]);
  const answers = await Promise.all(["x", "y"].map((id) => storage.diff(id, new Uint8Array())));
  expect(answers).toEqual([naming("x"), naming("y")]);
  await storage.close();
});
