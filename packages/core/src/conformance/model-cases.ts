/**
 * What every model must do, as cases: storage relies on each of these promises, and none can be seen in the
 * types. The cases know a model only through its contract and what the subject adds: random local edits.
 *
 * Invariants: cases share nothing. Cost (time, memory) is not judged here.
 */

import { equalBytes, toHex } from "../base/bytes.js";
import type { EventLinks, StoredState } from "../contract/model.js";
import { ownBytes, ownFolded } from "../contract/model-results.js";
import { assert, assertBytes, Random } from "./cases.js";
import {
  applyTo,
  assertThrows,
  damaged,
  type ModelCase,
  type ModelSubject,
  modelCase,
  Peer,
  sameDocument,
  writeLine,
  writeLog,
} from "./model-cases-subject.js";

export type { ModelCase, ModelSubject };

const needsHolding = (subject: ModelSubject): string | undefined => {
  const { events } = writeLine(subject, new Random(subject.seed ?? 1), 4);
  const { held } = new Peer(subject).receive(events.slice(1));
  return held.length > 0 ? undefined : "its events can be applied in any order";
};

const needsDiff = (subject: ModelSubject): string | undefined =>
  subject.model.diff === undefined ? "it has no diff" : undefined;

const needsCovers = (subject: ModelSubject): string | undefined =>
  subject.model.covers === undefined ? "it has no covers" : undefined;

const needsCheck = (subject: ModelSubject): string | undefined =>
  subject.model.check === undefined ? "it has no check" : undefined;

const needsFrontier = (subject: ModelSubject): string | undefined =>
  subject.model.frontierSize === undefined ? "its events have no parents" : undefined;

const needsRemove = (subject: ModelSubject): string | undefined =>
  subject.remove === undefined ? "the subject names no edits that only take away" : undefined;

const documentCases: readonly ModelCase[] = [
  modelCase("MD1", "its name and its state formats can be stored", ({ model }) => {
    const isText = typeof model.name === "string";
    assert(isText && /^[a-z][a-z0-9-]{0,31}$/.test(model.name), `not a name: ${model.name}`);
    const formats = model.stateFormats ?? [model.stateFormat];
    assert(formats.every(Number.isSafeInteger), `not state formats: ${formats}`);
    assert(formats.includes(model.stateFormat), "restore does not read what snapshot writes");
  }),
  modelCase("MD2", "every restored document writes under a fresh identity", (subject, random) => {
    const snapshot = ownBytes(subject.model.snapshot(writeLine(subject, random, 3).peer.doc));
    const [one, two] = [new Peer(subject, snapshot), new Peer(subject, snapshot)];
    const [first, second] = [one.edit(random), two.edit(random)];
    const alone = new Peer(subject, snapshot);
    alone.receive(first);
    const before = alone.version;
    const { applied } = alone.receive(second);
    assert(applied === second.length, "the second document's events were not applied after the first's");
    assert(!equalBytes(before, alone.version), "the second document's events were taken for the first's");
    one.receive(second);
    two.receive(first);
    sameDocument(subject, two.doc, one, "both with each other's events");
  }),
  modelCase("MD3", "a snapshot restores the same document", (subject, random) => {
    for (const peer of writeLog(subject, random).peers) {
      const restored = subject.model.restore(subject.model.snapshot(peer.doc));
      sameDocument(subject, restored, peer, "restored");
      assertBytes(
        ownBytes(subject.model.peerVersion(restored)),
        subject.model.peerVersion(peer.doc),
        "peer version",
      );
    }
    const empty = new Peer(subject);
    sameDocument(subject, subject.model.restore(subject.model.snapshot(empty.doc)), empty, "restored empty");
  }),
  modelCase("MD4", "restore and fold refuse a snapshot that was cut short or is empty", (subject, random) => {
    const snapshot = ownBytes(subject.model.snapshot(writeLog(subject, random).whole.doc));
    for (let end = 0; end < snapshot.length; end += 1 + Math.floor(snapshot.length / 300)) {
      const cut = snapshot.slice(0, end);
      assertThrows(() => subject.model.restore(cut), `restore of ${end} of ${snapshot.length} bytes`);
      if (end < 3) assertThrows(() => subject.model.fold(cut, []), `fold of ${end} bytes`);
    }
    assertThrows(() => subject.model.restore(new Uint8Array(64).fill(255)), "restore of 64 bytes 0xff");
  }),
  modelCase("MD5", "versions are equal exactly when the documents are", (subject, random) => {
    const seen = new Map<string, string>();
    const line = new Peer(subject);
    for (const event of [undefined, ...writeLine(subject, random, 12).events]) {
      if (event !== undefined) line.receive([event]);
      const version = toHex(line.version);
      assert(!seen.has(version), `event ${seen.size} did not change the version`);
      seen.set(version, line.content);
    }
    const { events, whole } = writeLog(subject, random);
    const grown = new Peer(subject);
    for (const event of events) {
      grown.receive([event]);
      const version = toHex(grown.version);
      const content = seen.get(version) ?? grown.content;
      assert(content === grown.content, "two documents with one version differ");
      seen.set(version, content);
    }
    sameDocument(subject, grown.doc, whole, "applied one by one");
  }),
  modelCase(
    "MD6",
    "an edit that only takes away is captured and changes the version",
    (subject, random) => {
      const { peer } = writeLine(subject, random, 6);
      const other = new Peer(subject, subject.model.snapshot(peer.doc));
      const before = peer.version;
      const doc = subject.remove?.(peer.doc, random);
      assert(doc !== undefined, "there was nothing to take away after six edits");
      peer.doc = doc;
      const events = peer.take();
      assert(events.length > 0, "it was not captured");
      assert(!equalBytes(before, peer.version), "the version is the same as before");
      other.receive(events);
      sameDocument(subject, other.doc, peer, "received");
    },
    needsRemove,
  ),
];

const applyCases: readonly ModelCase[] = [
  modelCase("MD7", "applying events again changes nothing", (subject, random) => {
    const { events, whole } = writeLog(subject, random);
    const before = [toHex(whole.version), whole.content];
    const { held, refused } = whole.receive([...events, ...random.shuffle(events)]);
    assert(held.length + refused.length === 0, "known events were held or refused");
    assert(`${before}` === `${[toHex(whole.version), whole.content]}`, "the document changed");
  }),
  modelCase("MD8", "events in any order and slices make the same document", (subject, random) => {
    const { events, whole } = writeLog(subject, random);
    for (let round = 0; round < 6; round++) {
      const peer = new Peer(subject);
      let left = random.shuffle(events);
      let waiting: unknown[] = [];
      while (left.length > 0) {
        const offered = [...waiting, ...left.splice(0, 1 + random.below(5))];
        const { held } = peer.receive(offered);
        waiting = held.map((index) => offered[index]);
      }
      left = waiting;
      assert(left.length === 0, `${left.length} events are held although nothing is missing`);
      sameDocument(subject, peer.doc, whole, `order ${round}`);
    }
  }),
  modelCase(
    "MD9",
    "events that build on missing ones are held, and applied when these have come",
    (subject, random) => {
      const { events, peer: author } = writeLine(subject, random, 8);
      const rest = events.slice(1);
      const peer = new Peer(subject);
      const { held } = peer.receive(rest);
      assert(held.length > 0, "nothing was held");
      const backwards = new Peer(subject).receive([...rest].reverse());
      const mirrored = backwards.held.map((index) => rest.length - 1 - index).reverse();
      assert(`${mirrored}` === `${held}`, `held ${held}, but ${mirrored} when offered backwards`);
      peer.receive(events.slice(0, 1));
      const again = peer.receive(held.map((index) => rest[index]));
      assert(again.held.length === 0, "some are still held after the missing event came");
      sameDocument(subject, peer.doc, author, "complete");
    },
    needsHolding,
  ),
  modelCase(
    "MD10",
    "a snapshot, a version and a peer version do not count held events",
    (subject, random) => {
      const { model } = subject;
      const { events, peer: author } = writeLine(subject, random, 8);
      const rest = events.slice(1);
      const holding = new Peer(subject);
      const { held } = holding.receive(rest);
      const restored = new Peer(subject, model.snapshot(holding.doc));
      sameDocument(subject, restored.doc, holding, "restored");
      assertBytes(ownBytes(model.peerVersion(restored.doc)), model.peerVersion(holding.doc), "peer version");
      restored.receive(events.slice(0, 1));
      assert(!equalBytes(restored.version, author.version), "the snapshot held what was reported as held");
      const again = restored.receive(held.map((index) => rest[index]));
      assert(again.held.length === 0, "some are still held after everything was offered");
      sameDocument(subject, restored.doc, author, "complete");
    },
    needsHolding,
  ),
  modelCase("MD11", "damaged events never make apply throw or spoil the document", (subject, random) => {
    const { model } = subject;
    const { events, peer: author } = writeLine(subject, random, 5);
    const bad = damaged(subject, events[2], random);
    for (const event of bad) {
      const peer = new Peer(subject);
      peer.receive(events.slice(0, 2));
      peer.receive([event]);
      model.restore(model.snapshot(peer.doc));
      peer.content;
    }
    const cut = damaged(subject, events[2], random).slice(0, 1);
    const peer = new Peer(subject);
    const mixed = [events[0], ...cut, ...events.slice(1)];
    const { held, refused } = peer.receive(mixed);
    if (cut.length > 0) {
      assert(
        held.length === 0 && `${refused.map((r) => r.index)}` === "1",
        "the empty event was not refused alone",
      );
      assert(refused[0]!.reason.length > 0, "a refusal has no reason");
    }
    sameDocument(subject, peer.doc, author, "with the damaged event among good ones");
  }),
  modelCase(
    "MD12",
    "check accepts every event and refuses every one that was cut short",
    (subject, random) => {
      const { model } = subject;
      const { events } = writeLog(subject, random);
      model.check?.(events);
      for (const event of events) {
        if (!(event instanceof Uint8Array)) continue;
        for (let end = 0; end < event.length; end++) {
          assertThrows(
            () => model.check?.([event.slice(0, end)]),
            `check of ${end} of ${event.length} bytes`,
          );
        }
        assertThrows(() => model.check?.([Uint8Array.of(...event, 0)]), "check of an event and one byte");
      }
    },
    needsCheck,
  ),
  modelCase(
    "MD13",
    "what check refuses, apply refuses",
    (subject, random) => {
      const { model } = subject;
      for (const event of damaged(subject, writeLine(subject, random, 3).events[2], random)) {
        let fine = true;
        try {
          model.check?.([event]);
        } catch {
          fine = false; // That is the answer.
        }
        if (!fine)
          assert(new Peer(subject).receive([event]).refused.length === 1, "apply took what check refuses");
      }
    },
    needsCheck,
  ),
];

const foldCases: readonly ModelCase[] = [
  modelCase("MD14", "fold does what apply and snapshot do", (subject, random) => {
    const { model } = subject;
    const { events, whole } = writeLog(subject, random);
    const offered = [...random.shuffle(events.slice(1)), ...damaged(subject, events[1], random).slice(0, 5)];
    const peer = new Peer(subject);
    const applied = peer.receive(offered);
    const folded = ownFolded(model.fold(undefined, offered));
    assert(`${folded.held}` === `${applied.held}`, `held ${folded.held} by fold, ${applied.held} by apply`);
    const [a, b] = [folded, applied].map(({ refused }) => `${refused.map((refusal) => refusal.index)}`);
    assert(a === b, `refused ${a} by fold, ${b} by apply`);
    sameDocument(subject, model.restore(folded.snapshot), peer, "folded");
    assertBytes(folded.version, peer.version, "version of the fold");
    assertBytes(folded.peerVersion, model.peerVersion(peer.doc), "peer version of the fold");
    const all = ownFolded(model.fold(undefined, events));
    sameDocument(subject, model.restore(all.snapshot), whole, "all folded");
  }),
  modelCase("MD15", "fold in slices is fold at once", (subject, random) => {
    const { model } = subject;
    const { events, whole } = writeLog(subject, random);
    for (let round = 0; round < 4; round++) {
      const left = round === 0 ? [...events] : random.shuffle(events);
      let snapshot: Uint8Array | undefined;
      let waiting: unknown[] = [];
      while (left.length > 0) {
        const offered = [...waiting, ...left.splice(0, 1 + random.below(9))];
        const folded = ownFolded(model.fold(snapshot, offered));
        snapshot = folded.snapshot;
        waiting = folded.held.map((index) => offered[index]);
      }
      assert(snapshot !== undefined && waiting.length === 0, `${waiting.length} events are still held`);
      sameDocument(subject, model.restore(snapshot), whole, `slices ${round}`);
    }
  }),
];

const captureCases: readonly ModelCase[] = [
  modelCase("MD16", "take is one cut: everything new once, then nothing", (subject, random) => {
    const peer = new Peer(subject);
    assert(!peer.pending && peer.take().length === 0, "a new document has something to take");
    const other = new Peer(subject);
    for (let i = 0; i < 10; i++) {
      for (let j = 0; j < 3; j++) peer.doc = subject.edit(peer.doc, random);
      const pending = peer.pending;
      const events = peer.take();
      assert(pending === events.length > 0, `pending was ${pending}, but take gave ${events.length} events`);
      assert(!peer.pending && peer.take().length === 0, "something is left after take");
      other.receive(events);
      sameDocument(subject, other.doc, peer, `after cut ${i}`);
    }
  }),
  modelCase("MD17", "what was applied or restored is never taken", (subject, random) => {
    const { events, whole } = writeLog(subject, random);
    const peer = new Peer(subject);
    for (const event of random.shuffle(events)) peer.receive([event]);
    peer.receive(events);
    assert(!peer.pending && peer.take().length === 0, "applied events were captured");
    const restored = new Peer(subject, subject.model.snapshot(whole.doc));
    peer.content;
    restored.content;
    assert(!restored.pending && restored.take().length === 0, "loading a document made events");
    const own = restored.edit(random);
    peer.receive(own);
    sameDocument(subject, peer.doc, restored, "after one edit");
  }),
  modelCase("MD18", "the tracker tells of each captured event until it is stopped", (subject, random) => {
    const peer = new Peer(subject);
    let calls = 0;
    peer.tracker.onEvent?.(() => calls++);
    peer.edit(random);
    if (peer.tracker.onEvent !== undefined) assert(calls > 0, "onEvent did not call back");
    const told = calls;
    peer.tracker.stop();
    for (let i = 0; i < 5; i++) peer.doc = subject.edit(peer.doc, random);
    assert(calls === told, "onEvent called back after stop");
  }),
  modelCase("MD19", "an edit in change is captured", (subject, random) => {
    const peer = new Peer(subject);
    peer.doc = subject.model.change(peer.doc, (doc) => subject.edit(doc, random));
    const events = peer.take();
    assert(events.length > 0, "nothing was captured");
    const other = new Peer(subject);
    other.receive(events);
    sameDocument(subject, other.doc, peer, "received");
  }),
  modelCase("MD20", "the codec gives back the events, and sizes cover them", (subject, random) => {
    const { codec } = subject.model;
    const { events, whole } = writeLog(subject, random);
    const all = events;
    for (const some of [all, all.slice(0, 1), []]) {
      const decoded = codec.decode(ownBytes(codec.encode(some)));
      assert(decoded.length === some.length, `${decoded.length} of ${some.length} events came back`);
      assertBytes(ownBytes(codec.encode(decoded)), codec.encode(some), "encoded again");
    }
    const peer = new Peer(subject);
    peer.receive(codec.decode(ownBytes(codec.encode(all))));
    sameDocument(subject, peer.doc, whole, "from decoded events");
    for (const event of all) assert(codec.size(event) > 0, "an event has no size");
    const payload = ownBytes(codec.encode(all));
    const cut = payload.slice(0, payload.length - 1);
    assertThrows(() => codec.decode(cut), "decode of a payload without its last byte");
  }),
];

const peerCases: readonly ModelCase[] = [
  modelCase(
    "MD21",
    "diff brings a peer at any version up to date",
    (subject, random) => {
      const { events, whole } = writeLog(subject, random);
      for (let round = 0; round < 12; round++) {
        const split = random.below(events.length + 1);
        const peer = new Peer(subject);
        peer.receive(events.slice(0, random.below(events.length + 1)));
        if (round % 3 === 0) peer.edit(random);
        peer.doc = receiveDiff(subject, peer.doc, storedAt(subject, events, split));
        const expected = new Peer(subject, subject.model.snapshot(whole.doc));
        expected.receive(peer.made);
        sameDocument(subject, peer.doc, expected, `peer ${round}, snapshot of ${split} events`);
      }
    },
    needsDiff,
  ),
  modelCase(
    "MD22",
    "diff refuses bytes that are no peer version",
    (subject, random) => {
      const { events } = writeLog(subject, random);
      const stored = storedAt(subject, events, events.length);
      for (const peer of [new Uint8Array(), new Uint8Array(9).fill(255)]) {
        assertThrows(() => subject.model.diff?.(stored, peer), `diff for ${peer.length} bytes`);
      }
    },
    needsDiff,
  ),
  modelCase(
    "MD26",
    "covers tells a document that has all of a snapshot from one that lacks a part",
    (subject, random) => {
      const { model } = subject;
      const { events, whole } = writeLog(subject, random);
      const all = ownBytes(model.snapshot(whole.doc));
      const covers = (doc: unknown, snapshot: Uint8Array): boolean => model.covers!(doc, snapshot);
      for (let round = 0; round < 8; round++) {
        const part = new Peer(subject);
        part.receive(events.slice(0, random.below(events.length + 1)));
        const older = ownBytes(model.snapshot(part.doc));
        assert(covers(model.restore(all), older), `part ${round} of a document is said to be more than it`);
        assert(covers(model.restore(older), older), `part ${round} is said to lack what it has`);
        part.edit(random);
        const own = ownBytes(model.snapshot(part.doc));
        assert(!covers(model.restore(all), own), `an edit beside part ${round} is taken for a part of it`);
      }
      assert(!covers(model.create(), all), "an empty document is said to have everything");
      const { events: line, peer: author } = writeLine(subject, random, 8);
      const holding = () => {
        const peer = new Peer(subject);
        peer.receive(line.slice(1));
        return peer.doc;
      };
      const own = ownBytes(model.snapshot(holding()));
      assert(covers(holding(), own), "a document that holds events is said to lack what it has");
      const rest = ownBytes(model.snapshot(author.doc));
      assert(!covers(holding(), rest), "a document is said to have what its held events wait for");
    },
    needsCovers,
  ),
  modelCase(
    "MD23",
    "the frontier is 0, grows with concurrent edits, and collapses",
    (subject, random) => {
      const { model } = subject;
      const frontierSize = (doc: unknown): number => model.frontierSize!(doc);
      const [one, two] = [new Peer(subject), new Peer(subject)];
      assert(frontierSize(one.doc) === 0, "the frontier of an empty document is not 0");
      const first = one.edit(random);
      const second = two.edit(random);
      assert(frontierSize(one.doc) === 1, "the frontier after one replica's edit is not 1");
      one.receive(second);
      two.receive(first);
      for (const { doc } of [one, two]) {
        assert(frontierSize(doc) >= 2, "two concurrent edits are not both in the frontier");
        assert(frontierSize(model.restore(model.snapshot(doc))) >= 2, "nor after a restore");
      }
      let size = 2;
      for (let i = 0; i < 20 && size !== 1; i++) {
        one.edit(random);
        size = frontierSize(one.doc);
      }
      assert(size === 1, `the frontier is ${size} after 20 edits that had seen everything`);
    },
    needsFrontier,
  ),
];

const linkCases: readonly ModelCase[] = [
  modelCase(
    "MD25",
    "links name what an event came after: nothing that its author had not seen, and all that it waits for",
    (subject, random) => {
      const { events, seen } = writeSeen(subject, random);
      const links = events.map((event) => subject.model.links!(event));
      const parents = parentsOf(links);
      const ancestors = closure(parents);
      for (const [index, { complete, makes }] of links.entries()) {
        const own = ancestors[index]!;
        for (const other of own) assert(seen[index]!.has(other), `event ${index} cannot follow ${other}`);
        if (!complete || makes.length === 0) continue;
        for (const other of seen[index]!)
          assert(own.has(other) || links[other]!.makes.length === 0, `event ${index} does not name ${other}`);
      }
      for (let round = 0; round < 6; round++) {
        const peer = new Peer(subject);
        for (const index of orderedBy(ancestors, random)) {
          const { held } = peer.receive([events[index]]);
          assert(held.length === 0, `event ${index} waits for another one than its links name`);
        }
      }
    },
    (subject) => (subject.model.links === undefined ? "its events have no links" : undefined),
  ),
];

/** Three peers that write at once; for each event, the events that its author had when it was made. */
function writeSeen(
  subject: ModelSubject,
  random: Random,
): { events: unknown[]; seen: ReadonlySet<number>[] } {
  const events: unknown[] = [];
  const seen: ReadonlySet<number>[] = [];
  const peers = Array.from({ length: 3 }, () => ({ peer: new Peer(subject), has: new Set<number>() }));
  for (let i = 0; i < 30; i++) {
    const { peer, has } = random.pick(peers);
    for (const event of peer.edit(random)) {
      seen.push(new Set(has));
      has.add(events.length);
      events.push(event);
    }
    if (!random.chance(0.3)) continue;
    const other = random.pick(peers);
    other.peer.receive(events);
    for (let index = 0; index < events.length; index++) other.has.add(index);
  }
  return { events, seen };
}

/** The events that make what each one names; asserts that they are there. */
function parentsOf(links: readonly EventLinks[]): Set<number>[] {
  const makers = new Map<string, number>();
  for (const [index, { makes }] of links.entries())
    for (const { name, from, to } of makes) {
      assert(from >= 0 && to > from, `event ${index} makes the points [${from}, ${to})`);
      for (let at = from; at < to; at++) {
        assert(
          !makers.has(`${name} ${at}`),
          `events ${makers.get(`${name} ${at}`)} and ${index} make one point`,
        );
        makers.set(`${name} ${at}`, index);
      }
    }
  return links.map(({ makes, after }, index) => {
    const before = makes.filter(({ from }) => from > 0).map(({ name, from }) => ({ name, at: from - 1 }));
    const found = new Set<number>();
    for (const { name, at } of [...before, ...after]) {
      const maker = makers.get(`${name} ${at}`);
      assert(maker !== undefined, `event ${index} names a point that no event makes`);
      if (maker !== index) found.add(maker);
    }
    return found;
  });
}

function closure(parents: readonly ReadonlySet<number>[]): Set<number>[] {
  const all = parents.map((direct) => new Set(direct));
  for (let isNew = true; isNew; ) {
    isNew = false;
    for (const own of all) {
      const size = own.size;
      for (const parent of [...own]) for (const other of all[parent]!) own.add(other);
      if (own.size > size) isNew = true;
    }
  }
  return all;
}

/** A random order in which each comes after its ancestors. */
function orderedBy(ancestors: readonly ReadonlySet<number>[], random: Random): number[] {
  const order: number[] = [];
  const left = new Set(ancestors.keys());
  while (left.size > 0) {
    const ready = [...left].filter((index) => [...ancestors[index]!].every((other) => !left.has(other)));
    assert(ready.length > 0, "events name each other in a circle");
    const next = random.pick(ready);
    left.delete(next);
    order.push(next);
  }
  return order;
}

/** What storage knows when it holds a snapshot of the first `split` events. */
function storedAt(subject: ModelSubject, events: readonly unknown[], split: number): StoredState<unknown> {
  const { model } = subject;
  if (split === 0) return { version: undefined, peerVersion: undefined, snapshot: undefined, tail: events };
  const { snapshot, version, peerVersion } = ownFolded(model.fold(undefined, events.slice(0, split)));
  return { snapshot, version, peerVersion, tail: events.slice(split) };
}

/** Asks first without the snapshot, as storage does. */
function receiveDiff(subject: ModelSubject, doc: unknown, stored: StoredState<unknown>): unknown {
  const { model } = subject;
  const peer = ownBytes(model.peerVersion(doc));
  const answer = model.diff?.({ ...stored, snapshot: undefined }, peer) ?? model.diff?.(stored, peer);
  assert(answer !== undefined, "diff asked for the snapshot although it was given");
  if (subject.receiveDiff !== undefined) return subject.receiveDiff(doc, answer);
  const result = applyTo(model, doc, [answer]);
  assert(result.applied === 1, "the answer was not applied");
  return result.doc;
}

/** All cases, in the order of the rules. */
export const modelCases: readonly ModelCase[] = [
  ...documentCases,
  ...applyCases,
  ...foldCases,
  ...captureCases,
  ...peerCases,
  ...linkCases,
];
