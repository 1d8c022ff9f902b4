import { binaryCodec, compareBytes, type Model, Reader, type Tracker, Writer } from "coppice";
import { describe, expect, test } from "vitest";
import { type ModelSubject, modelCases } from "../../src/conformance/model-cases.js";
import { runCase, runCases } from "../../src/conformance/run.js";

// A set to which replicas add numbers and from which they take them: the smallest model with every duty. Its
// mutants have one defect each, and the kit must catch it by a case of the rule that names it.

interface Fact {
  readonly replica: number;
  readonly seq: number;
  /** The newest event of each replica that the author had seen. */
  readonly seen: readonly (readonly [replica: number, seq: number])[];
  readonly adds: boolean;
  readonly value: number;
}

interface Doc {
  replica: number;
  readonly facts: Map<string, Fact>;
  readonly listeners: Set<(fact: Fact) => void>;
}

const keyOf = (replica: number, seq: number): string => `${replica}:${seq}`;

function encode(fact: Fact): Uint8Array {
  const writer = new Writer().varint(fact.replica).varint(fact.seq).varint(fact.seen.length);
  for (const [replica, seq] of fact.seen) writer.varint(replica).varint(seq);
  return writer
    .byte(fact.adds ? 1 : 0)
    .varint(fact.value)
    .finish()
    .slice();
}

function decode(bytes: Uint8Array): Fact {
  const reader = new Reader(bytes);
  const [replica, seq, count] = [reader.varint(), reader.varint(), reader.varint()];
  const seen: [number, number][] = [];
  for (let i = 0; i < count; i++) seen.push([reader.varint(), reader.varint()]);
  const [kind, value] = [reader.byte(), reader.varint()];
  if (reader.left > 0 || kind > 1 || seq === 0) throw new TypeError("not a fact");
  return { replica, seq, seen, adds: kind === 1, value };
}

let replicas = 0;

function newest(doc: Doc): Map<number, number> {
  const clocks = new Map<number, number>();
  for (const { replica, seq } of doc.facts.values())
    clocks.set(replica, Math.max(seq, clocks.get(replica) ?? 0));
  return clocks;
}

function values(doc: Doc): number[] {
  const taken = new Set([...doc.facts.values()].filter(({ adds }) => !adds).map(({ value }) => value));
  const added = [...doc.facts.values()].filter(({ adds }) => adds).map(({ value }) => value);
  return [...new Set(added)].filter((value) => !taken.has(value)).sort((a, b) => a - b);
}

function write(doc: Doc, adds: boolean, value: number): Doc {
  const clocks = newest(doc);
  const fact = {
    replica: doc.replica,
    seq: (clocks.get(doc.replica) ?? 0) + 1,
    seen: [...clocks],
    adds,
    value,
  };
  doc.facts.set(keyOf(fact.replica, fact.seq), fact);
  for (const listener of doc.listeners) listener(fact);
  return doc;
}

function pack(doc: Doc): Uint8Array {
  const events = [...doc.facts.values()].map(encode).sort(compareBytes);
  return new Writer().varint(events.length).raw(binaryCodec.encode(events)).finish().slice();
}

function unpack(snapshot: Uint8Array): Fact[] {
  const reader = new Reader(snapshot);
  const count = reader.varint();
  const facts = binaryCodec.decode(reader.raw(reader.left)).map(decode);
  if (facts.length !== count) throw new TypeError("not a set of facts");
  return facts;
}

function track(doc: Doc): Tracker<Doc, Uint8Array> {
  let captured: Uint8Array[] = [];
  const told: (() => void)[] = [];
  const listener = (fact: Fact) => {
    captured.push(encode(fact));
    for (const tell of told) tell();
  };
  doc.listeners.add(listener);
  return {
    take: () => captured.splice(0),
    pending: () => captured.length > 0,
    onEvent: (tell) => void told.push(tell),
    stop: () => {
      captured = [];
      doc.listeners.delete(listener);
    },
  };
}

function setModel(): Model<Doc, Uint8Array> {
  const model: Model<Doc, Uint8Array> = {
    name: "set",
    stateFormat: 1,
    create: () => ({ replica: ++replicas, facts: new Map(), listeners: new Set() }),
    restore: (snapshot) => {
      const doc = model.create();
      for (const fact of unpack(snapshot)) doc.facts.set(keyOf(fact.replica, fact.seq), fact);
      return doc;
    },
    apply: (doc, events) => {
      const refused: { index: number; reason: string }[] = [];
      let waiting: [index: number, fact: Fact][] = [];
      events.forEach((event, index) => {
        try {
          waiting.push([index, decode(event)]);
        } catch (error) {
          refused.push({ index, reason: String(error) });
        }
      });
      for (let before = -1; before !== waiting.length; ) {
        before = waiting.length;
        waiting = waiting.filter(([, fact]) => {
          const ready = fact.seen.every(([replica, seq]) => doc.facts.has(keyOf(replica, seq)));
          const key = keyOf(fact.replica, fact.seq);
          if (ready && !doc.facts.has(key)) doc.facts.set(key, fact);
          return !ready;
        });
      }
      const held = waiting.map(([index]) => index);
      return { doc, applied: events.length - held.length - refused.length, held, refused };
    },
    change: (doc, fn) => fn(doc) as Doc,
    track,
    check: (events) => {
      for (const event of events) decode(event);
    },
    links: (event) => {
      const { replica, seq, seen } = decode(event);
      return {
        replica: String(replica),
        makes: [{ name: String(replica), from: seq - 1, to: seq }],
        after: seen.map(([other, at]) => ({ name: String(other), at: at - 1 })),
        complete: true,
      };
    },
    snapshot: pack,
    version: (doc) => new TextEncoder().encode([...doc.facts.keys()].sort().join()),
    peerVersion: (doc) => {
      const writer = new Writer();
      for (const [replica, seq] of [...newest(doc)].sort((a, b) => a[0] - b[0]))
        writer.varint(replica).varint(seq);
      return writer.byte(0).finish().slice();
    },
    frontierSize: (doc) => {
      const facts = [...doc.facts.values()];
      const seen = new Set(facts.flatMap((fact) => fact.seen.map(([replica, seq]) => keyOf(replica, seq))));
      return facts.filter(({ replica, seq }) => !seen.has(keyOf(replica, seq))).length;
    },
    fold: (snapshot, events) => {
      const doc = snapshot === undefined ? model.create() : model.restore(snapshot);
      const { held, refused } = model.apply(doc, events);
      const [version, peerVersion] = [model.version(doc), model.peerVersion(doc)];
      return { snapshot: model.snapshot(doc), version, peerVersion, held, refused };
    },
    diff: (stored, peer) => {
      if (peer.at(-1) !== 0) throw new TypeError("not a peer version");
      if (stored.version !== undefined && stored.snapshot === undefined) return undefined;
      const facts = stored.snapshot === undefined ? [] : unpack(stored.snapshot).map(encode);
      return binaryCodec.encode([...facts, ...stored.tail]);
    },
    covers: (doc, snapshot) =>
      unpack(snapshot).every(({ replica, seq }) => doc.facts.has(keyOf(replica, seq))),
    codec: binaryCodec,
  };
  return model;
}

/** Gives the same bytes in one buffer, whatever it is given. */
function reusing(): (bytes: Uint8Array) => Uint8Array {
  const buffer = new Uint8Array(1 << 16);
  return (bytes) => {
    buffer.set(bytes);
    return buffer.subarray(0, bytes.length);
  };
}

function subjectOf(model: Model<Doc, Uint8Array>): ModelSubject<Doc, Uint8Array> {
  return {
    name: model.name,
    model,
    edit: (doc, random) => {
      const present = values(doc);
      if (present.length > 0 && random.chance(0.25)) return write(doc, false, random.pick(present));
      return write(doc, true, random.below(1000));
    },
    remove: (doc) => {
      const [first] = values(doc);
      return first === undefined ? undefined : write(doc, false, first);
    },
    content: (doc) => values(doc).join(),
    receiveDiff: (doc, answer) => model.apply(doc, binaryCodec.decode(answer)).doc,
  };
}

describe("[MD] a set of numbers", () => {
  const subject = subjectOf(setModel()) as ModelSubject;
  for (const item of modelCases) test(item.name, (context) => runCase(item, subject, context.skip));
});

test("[MD24] the kit finds nothing wrong with a model that uses its buffers again", async () => {
  const model = setModel();
  const good = { ...model };
  const [inOne, encoded] = [reusing(), reusing()];
  const codec = { ...binaryCodec, encode: (all: readonly Uint8Array[]) => encoded(binaryCodec.encode(all)) };
  Object.assign(model, {
    snapshot: (doc: Doc) => inOne(good.snapshot(doc)),
    version: (doc: Doc) => inOne(good.version(doc)),
    peerVersion: (doc: Doc) => inOne(good.peerVersion(doc)),
    fold: (snapshot: Uint8Array | undefined, events: readonly Uint8Array[]) => {
      const doc = snapshot === undefined ? model.create() : model.restore(snapshot);
      const { held, refused } = model.apply(doc, events);
      const [version, peerVersion] = [good.version(doc), good.peerVersion(doc)];
      return { snapshot: good.snapshot(doc), version, peerVersion, held, refused };
    },
    codec,
  });
  const report = await runCases(modelCases, subjectOf(model) as ModelSubject);
  expect(report.results.filter(({ status }) => status !== "passed")).toEqual([]);
});

interface Mutant {
  readonly defect: string;
  readonly rule: string;
  /** What the failure says, so that nothing else than the defect has been caught. */
  readonly reason: RegExp;
  readonly wrap: (model: Model<Doc, Uint8Array>) => Partial<Model<Doc, Uint8Array>>;
}

const mutants: readonly Mutant[] = [
  { defect: "a name with capitals", rule: "MD1", reason: /not a name: Set/, wrap: () => ({ name: "Set" }) },
  {
    defect: "a resumed identity",
    rule: "MD2",
    reason: /taken for the first's/,
    wrap: (model) => ({ restore: (snapshot) => Object.assign(model.restore(snapshot), { replica: 77 }) }),
  },
  {
    defect: "a snapshot that forgets one event",
    rule: "MD3",
    reason: /restored: version/,
    wrap: (model) => ({
      snapshot: (doc) => model.snapshot({ ...doc, facts: new Map([...doc.facts].slice(1)) }),
    }),
  },
  {
    defect: "an empty document for a bad snapshot",
    rule: "MD4",
    reason: /restore of 0 of .* was not refused/,
    wrap: (model) => ({
      restore: (snapshot) => (snapshot.length === 0 ? model.create() : model.restore(snapshot)),
    }),
  },
  {
    defect: "a version that does not see removals",
    rule: "MD6",
    reason: /the version is the same as before/,
    wrap: (model) => ({
      version: (doc) => {
        const added = [...doc.facts].filter(([, fact]) => fact.adds);
        return model.version({ ...doc, facts: new Map(added) });
      },
    }),
  },
  {
    defect: "a version of what can be seen alone",
    rule: "MD5",
    reason: /did not change the version/,
    wrap: () => ({ version: (doc) => new TextEncoder().encode(values(doc).length.toString()) }),
  },
  {
    defect: "an event that counts when it comes again",
    rule: "MD7",
    reason: /the document changed/,
    wrap: (model) => {
      const seen = new WeakSet<Uint8Array>();
      return {
        apply: (doc, events) => {
          for (const event of events) if (seen.has(event) && doc.facts.size > 20) write(doc, true, 5000);
          for (const event of events) seen.add(event);
          return model.apply(doc, events);
        },
      };
    },
  },
  {
    defect: "held events that are reported as applied",
    rule: "MD8",
    reason: /version/,
    wrap: (model) => ({
      apply: (doc, events) => {
        const { refused } = model.apply(doc, events);
        return { doc, applied: events.length - refused.length, held: [], refused };
      },
    }),
  },
  {
    defect: "indexes of held events that are one too high",
    rule: "MD9",
    reason: /held: index|but .* when offered backwards|still held/,
    wrap: (model) => ({
      apply: (doc, events) => {
        const result = model.apply(doc, events);
        return { ...result, held: result.held.map((index) => index + 1) };
      },
    }),
  },
  {
    defect: "held events that stay in the document",
    rule: "MD10",
    reason: /the snapshot held what was reported as held/,
    wrap: (model) => ({
      apply: (doc, events) => {
        const result = model.apply(doc, events);
        for (const index of result.held) {
          const fact = decode(events[index]!);
          doc.facts.set(keyOf(fact.replica, fact.seq), fact);
        }
        return result;
      },
    }),
  },
  {
    defect: "apply that throws for bad events",
    rule: "MD11",
    reason: /not a fact|too early/,
    wrap: (model) => ({
      apply: (doc, events) => {
        model.check?.(events);
        return model.apply(doc, events);
      },
    }),
  },
  {
    defect: "check that checks nothing",
    rule: "MD12",
    reason: /check of 0 of .* was not refused/,
    wrap: () => ({ check: () => {} }),
  },
  {
    defect: "check that is stricter than apply",
    rule: "MD13",
    reason: /apply took what check refuses/,
    wrap: (model) => ({
      check: (events) => {
        model.check?.(events);
        if (events.some((event) => decode(event).value > 1000)) throw new TypeError("too large");
        if (events.some((event) => decode(event).seq > 3)) throw new TypeError("too late");
      },
    }),
  },
  {
    defect: "fold that forgets what it holds",
    rule: "MD14",
    reason: /held .* by fold/,
    wrap: (model) => ({ fold: (snapshot, events) => ({ ...model.fold(snapshot, events), held: [] }) }),
  },
  {
    defect: "fold whose three results share one buffer",
    rule: "MD14",
    reason: /folded|version of the fold/,
    wrap: (model) => ({
      fold: (snapshot, events) => {
        const inOne = reusing();
        const folded = model.fold(snapshot, events);
        const [version, peerVersion] = [inOne(folded.version), inOne(folded.peerVersion)];
        return { ...folded, version, peerVersion };
      },
    }),
  },
  {
    defect: "fold that begins anew",
    rule: "MD15",
    reason: /slices 0|still held/,
    wrap: (model) => ({ fold: (_snapshot, events) => model.fold(undefined, events) }),
  },
  {
    defect: "take that gives everything again",
    rule: "MD16",
    reason: /left after take/,
    wrap: () => ({
      track: (doc) => {
        const all: Uint8Array[] = [];
        doc.listeners.add((fact) => all.push(encode(fact)));
        return { take: () => [...all], pending: () => all.length > 0, stop: () => {} };
      },
    }),
  },
  {
    defect: "applied events that are captured",
    rule: "MD17",
    reason: /applied events were captured/,
    wrap: (model) => ({
      apply: (doc, events) => {
        const result = model.apply(doc, events);
        for (const fact of doc.facts.values()) for (const listener of doc.listeners) listener(fact);
        return result;
      },
    }),
  },
  {
    defect: "a tracker that cannot be stopped",
    rule: "MD18",
    reason: /after stop/,
    wrap: (model) => ({ track: (doc) => ({ ...model.track(doc), stop: () => {} }) }),
  },
  {
    defect: "change that captures nothing",
    rule: "MD19",
    reason: /nothing was captured/,
    wrap: () => ({
      change: (doc, fn) => {
        const listeners = [...doc.listeners];
        doc.listeners.clear();
        const changed = fn(doc) as Doc;
        for (const listener of listeners) doc.listeners.add(listener);
        return changed;
      },
    }),
  },
  {
    defect: "a codec that loses the last event",
    rule: "MD20",
    reason: /events came back/,
    wrap: () => ({
      codec: { ...binaryCodec, decode: (payload) => binaryCodec.decode(payload).slice(0, -1) },
    }),
  },
  {
    defect: "diff without the tail",
    rule: "MD21",
    reason: /peer 0/,
    wrap: (model) => ({ diff: (stored, peer) => model.diff?.({ ...stored, tail: [] }, peer) }),
  },
  {
    defect: "diff for any bytes",
    rule: "MD22",
    reason: /diff for 0 bytes: was not refused/,
    wrap: (model) => ({ diff: (stored) => model.diff?.(stored, Uint8Array.of(0)) }),
  },
  {
    defect: "a document that covers whatever there is",
    rule: "MD26",
    reason: /an edit beside part 0/,
    wrap: () => ({ covers: () => true }),
  },
  {
    defect: "a document that covers nothing",
    rule: "MD26",
    reason: /part 0 of a document/,
    wrap: () => ({ covers: () => false }),
  },
  {
    defect: "a frontier that is always one event",
    rule: "MD23",
    reason: /empty document is not 0/,
    wrap: () => ({ frontierSize: () => 1 }),
  },
  {
    defect: "a frontier that never collapses",
    rule: "MD23",
    reason: /after 20 edits/,
    wrap: () => ({ frontierSize: (doc) => newest(doc).size }),
  },
  {
    defect: "links that leave out what others made",
    rule: "MD25",
    reason: /does not name|waits for another one/,
    wrap: (model) => ({ links: (event) => ({ ...model.links!(event), after: [] }) }),
  },
  {
    defect: "incomplete links that leave out what an event waits for",
    rule: "MD25",
    reason: /waits for another one/,
    wrap: (model) => ({ links: (event) => ({ ...model.links!(event), after: [], complete: false }) }),
  },
  {
    defect: "links to what is still to come",
    rule: "MD25",
    reason: /cannot follow|in a circle|that no event makes/,
    wrap: (model) => ({
      links: (event) => {
        const links = model.links!(event);
        return { ...links, after: links.after.map(({ name, at }) => ({ name, at: at + 1 })) };
      },
    }),
  },
];

describe("mutants", () => {
  test.for(mutants)("[MD24] the kit catches $defect", async ({ rule, reason, wrap }) => {
    const model = setModel();
    // The model calls itself, so the defect is put into it and not around it.
    Object.assign(model, wrap({ ...model }));
    const report = await runCases(
      modelCases.filter((item) => item.rule === rule),
      subjectOf(model) as ModelSubject,
    );
    expect(report.results.map(({ status }) => status)).toEqual(["failed"]);
    expect(report.results[0]!.reason).toMatch(reason);
  });

  test("[MD23] a model whose events have no parents is asked for no frontier", async () => {
    const { frontierSize: _none, ...model } = setModel();
    const report = await runCases(modelCases, subjectOf(model) as ModelSubject);
    expect(report.failed).toBe(0);
    const skipped = report.results.filter(({ status }) => status === "skipped");
    expect(skipped.map(({ rule, reason }) => [rule, reason])).toContainEqual([
      "MD23",
      "its events have no parents",
    ]);
  });

  test("[MD24] every rule has a mutant", () => {
    expect([...new Set(mutants.map(({ rule }) => rule))].sort()).toEqual(
      modelCases.map(({ rule }) => rule).sort(),
    );
  });
});
