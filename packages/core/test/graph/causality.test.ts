// Graphs that are made of the links of events, against a naive twin.
import { fc, test as property } from "@fast-check/vitest";
import {
  causalGraph,
  DocumentStorage,
  type EventLinks,
  type LinkedEvent,
  layOutGraph,
  memoryBackend,
} from "coppice";
import { describe, expect, test } from "vitest";
import { nameSet, naming } from "../../../../test/support/oracle-model.js";

interface Made {
  readonly replica: number;
  /** Places, in this list, of what its author had just seen. */
  readonly parents: readonly number[];
}

/** Replicas that write, each on its own newest event and on what it has seen of the others. */
const histories = fc
  .array(fc.tuple(fc.nat(3), fc.array(fc.nat(30), { maxLength: 3 })), { minLength: 1, maxLength: 30 })
  .map((made) => {
    const last = new Map<number, number>();
    return made.map(([replica, seen], index): Made => {
      const own = last.get(replica);
      last.set(replica, index);
      const parents = [...(own === undefined ? [] : [own]), ...seen.filter((at) => at < index)];
      return { replica, parents: [...new Set(parents)] };
    });
  });

function ancestorsOf(history: readonly Made[]): Set<number>[] {
  const all: Set<number>[] = [];
  for (const { parents } of history)
    all.push(new Set(parents.flatMap((parent) => [parent, ...all[parent]!])));
  return all;
}

/** Names by replica and count where `byReplica`, else a name for each event, as hashes are. */
function linksOf(history: readonly Made[], byReplica: boolean): EventLinks[] {
  const counts = new Map<number, number>();
  const points = history.map(({ replica }, index) => {
    const at = counts.get(replica) ?? 0;
    counts.set(replica, at + 1);
    return byReplica ? { name: `r${replica}`, at } : { name: `hash ${index}`, at: 0 };
  });
  return history.map(({ replica, parents }, index) => {
    const { name, at } = points[index]!;
    const after = parents.map((parent) => points[parent]!);
    return { replica: `r${replica}`, makes: [{ name, from: at, to: at + 1 }], after, complete: true };
  });
}

/** The log: event `order[n]` of the history has the clock n. */
function logOf(links: readonly EventLinks[], order: readonly number[]): LinkedEvent[] {
  return order.map((index, clock) => ({ clock, time: clock, links: links[index]! }));
}

describe("graphs made of links", () => {
  property.prop([histories, fc.boolean(), fc.infiniteStream(fc.nat(1_000))])(
    "[GR50] a graph made of links has their order, no parent too many, and the critical versions, in any order of the log",
    (history, byReplica, chance) => {
      const order = [...history.keys()].sort(() => chance.next().value - 500);
      const ancestors = ancestorsOf(history);
      const graph = causalGraph(logOf(linksOf(history, byReplica), order));
      const indexOf = ({ sequence }: { sequence: number }) => order[sequence - 1]!;
      const placed: number[] = [];
      expect(graph.events).toHaveLength(history.length);
      for (const event of graph.events) {
        const index = indexOf(event);
        const own = [...ancestors[index]!];
        const direct = own.filter((one) => !own.some((other) => ancestors[other]!.has(one)));
        expect(event.parents.map(indexOf).sort()).toEqual(direct.sort());
        expect(own.every((one) => placed.includes(one))).toBe(true);
        expect(event.replica).toBe(`r${history[index]!.replica}`);
        placed.push(index);
      }
      const critical = [...history.keys()].filter((one) =>
        [...history.keys()].every(
          (other) => other === one || ancestors[one]!.has(other) || ancestors[other]!.has(one),
        ),
      );
      expect(graph.critical.map(indexOf).sort()).toEqual(critical.sort());
      const rows = layOutGraph(graph.events, graph.critical);
      expect(rows.flatMap(({ piece }) => piece.events)).toHaveLength(history.length);
    },
  );

  property.prop([histories, fc.nat(30)])(
    "[GR51] what lies before the events that are given leaves them cut where nothing else is known of them",
    (history, from) => {
      const links = linksOf(history, true);
      const log = logOf(links, [...history.keys()]).slice(from);
      const { events } = causalGraph(log);
      for (const { sequence, parents } of events) {
        const known = [...ancestorsOf(history)[sequence - 1]!].filter((index) => index >= from);
        const isCut = known.length === 0 && history[sequence - 1]!.parents.length > 0;
        expect(parents.some(({ replica }) => replica === "")).toBe(isCut);
        expect(parents.length === 0).toBe(known.length === 0 && !isCut);
      }
    },
  );

  test("[GR52] an event that makes nothing new is counted with the newest that it came after", () => {
    const make = (from: number, to: number, after: EventLinks["after"] = []): EventLinks => ({
      replica: "a",
      makes: from === to ? [] : [{ name: "a", from, to }],
      after,
      complete: false,
    });
    const links = [
      make(0, 5),
      make(5, 9),
      make(0, 0, [{ name: "a", at: 4 }]), // deletes something of the first
      make(0, 9), // both again
      make(7, 12), // one and a half
      make(0, 0, [{ name: "b", at: 0 }]), // deletes what is not here
    ];
    const log = links.map((each, clock) => ({ clock, time: 0, links: each }));
    const { events, unplaced } = causalGraph(log);
    expect(events.map(({ sequence, parents, attached }) => [sequence, parents.length, attached])).toEqual([
      [1, 0, 1],
      [2, 1, 1],
      [5, 1, 0],
    ]);
    expect(unplaced).toBe(1);
    expect(causalGraph([])).toEqual({ events: [], critical: [], unplaced: 0 });
  });

  test("[GR53] a read with links gives those of each event whose bytes tell them, and no others", async () => {
    const model = {
      ...nameSet(),
      links: (event: Uint8Array): EventLinks => {
        if (new TextDecoder().decode(event).includes("mute")) throw new TypeError("says nothing");
        return { replica: "a", makes: [], after: [], complete: true };
      },
    };
    const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [model] });
    await storage.append(
      "d",
      ["one", "mute", "two"].map((name) => naming(name)),
    );
    const told = async (links: boolean) => {
      const found: unknown[] = [];
      for await (const event of storage.read("d", { links })) found.push(event.links?.replica);
      return found;
    };
    expect(await told(true)).toEqual(["a", undefined, "a"]);
    expect(await told(false)).toEqual([undefined, undefined, undefined]);
    await storage.append("other", [naming("x")]);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });

  test("[GR52] events that name each other in a circle are all drawn", () => {
    const one = (name: string, other: string): EventLinks => ({
      replica: name,
      makes: [{ name, from: 0, to: 1 }],
      after: [{ name: other, at: 0 }],
      complete: true,
    });
    const log = [one("a", "b"), one("b", "a"), one("c", "c")].map((links, clock) => ({
      clock,
      time: 0,
      links,
    }));
    const { events } = causalGraph(log);
    expect(events.map(({ replica }) => replica).sort()).toEqual(["a", "b", "c"]);
    expect(layOutGraph(events, []).length).toBe(3);
  });
});
