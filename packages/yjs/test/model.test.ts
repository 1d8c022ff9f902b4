import { concatBytes, DocumentStorage, equalBytes, memoryBackend } from "coppice";
import { describe, expect, test, vi } from "vitest";
import * as Y from "yjs";
import { below, seeded, shuffled } from "../../../test/support/chance.js";
import { type YjsModel, yjs } from "../src/index.js";
import { contentOf, writeTogether } from "./editing.js";

const model = yjs();

/** The updates that `edit` makes, one for each transaction, by a client with this id. */
function updatesOf(
  clientID: number,
  edit: (doc: Y.Doc) => void,
  before: readonly Uint8Array[] = [],
): Uint8Array[] {
  const doc = new Y.Doc();
  for (const update of before) Y.applyUpdate(doc, update, "before");
  doc.clientID = clientID;
  const updates: Uint8Array[] = [];
  doc.on("update", (update: Uint8Array, origin: unknown) => {
    if (origin !== "before") updates.push(update);
  });
  edit(doc);
  return updates;
}

const typed = (clientID: number, text: string, before: readonly Uint8Array[] = []): Uint8Array[] =>
  updatesOf(
    clientID,
    (doc) => {
      const body = doc.getText("text");
      for (const character of text) body.insert(body.length, character);
    },
    before,
  );

describe("held events", () => {
  const [first, second, third] = typed(1, "abc") as [Uint8Array, Uint8Array, Uint8Array];

  test("[MD30] a missing event holds exactly those of its client that come after it", () => {
    const other = typed(2, "xy");
    const { held, refused } = model.apply(model.create(), [third, other[0]!, first, other[1]!]);
    expect([held, refused]).toEqual([[0], []]);
  });

  test("[MD30] an event that builds on another client's missing one is held", () => {
    const reply = typed(2, "!", [first, second, third]);
    const doc = model.create();
    expect(model.apply(doc, [...reply, first]).held).toEqual([0]);
    expect(model.apply(doc, [third]).held).toEqual([0]);
    expect(model.apply(doc, [second]).held).toEqual([]);
    expect(doc.getText("text").toString()).toBe("abc!");
  });

  test("[MD30] a deletion of what has not come is held, and an event that is applied in part too", () => {
    const [removal] = updatesOf(3, (doc) => doc.getText("text").delete(1, 2), [first, second, third]);
    const doc = model.create();
    expect(model.apply(doc, [removal!]).held).toEqual([0]);
    expect(model.apply(doc, [first, second, removal!]).held).toEqual([2]);
    expect(model.apply(doc, [third, removal!]).held).toEqual([]);
    expect(doc.getText("text").toString()).toBe("a");
  });

  test("[MD30] updates with gaps, overlaps and repetitions are joined without loss", () => {
    const all = typed(1, "abcdefgh");
    const whole = model.fold(undefined, all);
    const gap = Y.mergeUpdates([all[0]!, all[3]!, all[7]!]);
    const overlapping = [Y.mergeUpdates(all.slice(2, 6)), Y.mergeUpdates(all.slice(0, 4)), gap];
    const partly = model.fold(undefined, overlapping);
    expect(partly.held).toEqual([2]);
    const done = model.fold(partly.snapshot, [gap, all[6]!, Y.mergeUpdates(all.slice(1, 6))]);
    expect(done.held).toEqual([]);
    expect(done.version).toEqual(whole.version);
    expect(model.restore(done.snapshot).getText("text").toString()).toBe("abcdefgh");
  });

  test("[MD30] what waits for the beginning of a gap does not wait for its end", () => {
    const line = typed(1, "0123456789");
    const [early, reply] = updatesOf(
      2,
      (doc) => {
        doc.getMap("map").set("k", 1);
        doc.getText("text").insert(1, "!");
      },
      line.slice(0, 1),
    ) as [Uint8Array, Uint8Array];
    const doc = model.create();
    for (const event of [line[8]!, reply, early]) model.apply(doc, [event]);
    expect(Y.getState(doc.store, 2)).toBe(1);
    model.apply(doc, [line[0]!]);
    expect(doc.getText("text").toString()).toBe("0!");
  });

  test("[MD14] keystrokes with another right neighbour are not joined", () => {
    const right = typed(1, "R");
    const first = updatesOf(2, (doc) => doc.getText("text").insert(0, "a"), right);
    const between = updatesOf(3, (doc) => doc.getText("text").insert(1, "-"), [...right, ...first]);
    const other = new Y.Doc();
    for (const update of [...right, ...first]) Y.applyUpdate(other, update);
    other.clientID = 1;
    const before = Y.encodeStateVector(other);
    other.getText("text").insert(1, "z");
    const own = [Y.encodeStateAsUpdate(other, before)];
    const doc = new Y.Doc();
    for (const update of [...right, ...first, ...own]) Y.applyUpdate(doc, update);
    doc.clientID = 2;
    const seen = Y.encodeStateVector(doc);
    doc.getText("text").insert(1, "b");
    const events = [...right, ...first, ...own, Y.encodeStateAsUpdate(doc, seen)];
    expect(model.restore(model.fold(undefined, events).snapshot).getText("text").toString()).toBe("abzR");
    for (const update of between) Y.applyUpdate(doc, update);
    const all = model.fold(undefined, [...between, ...events]);
    expect(model.restore(all.snapshot).getText("text").toString()).toBe(doc.getText("text").toString());
  });

  test("[MD14] texts under a key replace each other and are not joined", () => {
    const keyed = Uint8Array.of(1, 1, 1, 0, 0x24, 1, 1, 0x74, 1, 0x6b, 1, 0x61, 0);
    const next = Uint8Array.of(1, 1, 1, 1, 0x84, 1, 0, 1, 0x62, 0);
    const plain = new Y.Doc();
    for (const update of [keyed, next]) Y.applyUpdate(plain, update);
    expect(model.fold(undefined, [keyed, next]).version).toEqual(model.version(plain));
  });

  test("[MD10] a snapshot of a document that holds events leaves them pending in it", () => {
    const doc = model.create();
    model.apply(doc, [first, third]);
    const snapshot = model.snapshot(doc);
    expect(Y.parseUpdateMeta(snapshot).to.get(1)).toBe(1);
    model.apply(doc, [second]);
    expect(doc.getText("text").toString()).toBe("abc");
  });
});

describe("restored documents", () => {
  test("[MD4] a snapshot that builds on structs it lacks is refused", () => {
    const [first, second] = typed(1, "ab") as [Uint8Array, Uint8Array];
    expect(() => model.restore(second)).toThrow("builds on structs that it lacks");
    const [removal] = updatesOf(3, (doc) => doc.getText("text").delete(0, 1), [first]);
    expect(() => model.restore(removal!)).toThrow("builds on structs that it lacks");
    expect(() => model.fold(second, [first])).toThrow("builds on structs that it lacks");
  });

  test("[MD4] an update in the other format of Yjs is refused", () => {
    const doc = new Y.Doc();
    doc.getText("text").insert(0, "hello");
    expect(() => model.restore(Y.encodeStateAsUpdateV2(doc))).toThrow("not a Yjs update");
    expect(() => model.restore(Y.encodeStateVector(doc))).toThrow("not a Yjs update");
  });

  test("[MD2] a client id that events bring is given up", () => {
    const doc = model.create();
    const taken = doc.clientID;
    const log = vi.spyOn(console, "log");
    model.apply(doc, typed(taken, "ab"));
    // Yjs would give it up too, but print a warning.
    const { calls } = log.mock;
    log.mockRestore();
    expect(calls).toEqual([]);
    expect(doc.clientID).not.toBe(taken);
    doc.getText("text").insert(2, "c");
    expect(Y.getState(doc.store, taken)).toBe(2);
  });

  test("[MD31] gc drops the content of what was deleted, and gc: false keeps it", () => {
    const events = [...typed(1, "secret")];
    events.push(...updatesOf(2, (doc) => doc.getText("text").delete(0, 6), events));
    const holds = (kept: YjsModel) => Buffer.from(kept.fold(undefined, events).snapshot).includes("secret");
    expect(holds(yjs())).toBe(false);
    expect(holds(yjs({ gc: false }))).toBe(true);
    expect(yjs().fold(undefined, events).version).toEqual(yjs({ gc: false }).fold(undefined, events).version);
  });
});

describe("formatting cleanup", () => {
  // Two clients make the same text bold at once: plain Yjs then deletes superfluous marks on its own.
  const base = typed(1, "hello world");
  const one = updatesOf(2, (doc) => doc.getText("text").format(0, 5, { bold: true }), base);
  const two = updatesOf(3, (doc) => doc.getText("text").format(0, 5, { bold: true }), base);
  const events = [...base, ...one, ...two];

  test("[MD32] plain Yjs makes deletions of its own for these events, so the next test can fail", () => {
    const doc = new Y.Doc();
    doc.getText("text");
    const own: unknown[] = [];
    doc.on("update", (_update: Uint8Array, origin: unknown) => void (origin === null && own.push(origin)));
    for (const event of events) Y.applyUpdate(doc, event, "remote");
    expect(own.length).toBeGreaterThan(0);
  });

  test("[MD32] applying events makes no deletions of its own, whatever types are defined", () => {
    const doc = model.create();
    const tracker = model.track(doc);
    doc.getText("text").observe(() => {});
    for (const event of events) model.apply(doc, [event]);
    expect(tracker.take(doc)).toEqual([]);
    expect(model.version(doc)).toEqual(model.fold(undefined, events).version);
  });

  test("[MD32] what Yjs cleans up after a provider's update is captured", () => {
    const doc = model.create();
    const tracker = model.track(doc);
    doc.getText("text");
    model.apply(doc, [...base, ...one]);
    Y.applyUpdate(doc, two[0]!, "provider");
    const captured = tracker.take(doc);
    expect(captured.length).toBeGreaterThan(1);
    const { version } = model.fold(undefined, [...base, ...one, ...captured]);
    expect(version).toEqual(model.version(doc));
    expect(version).not.toEqual(model.fold(undefined, events).version);
  });
});

describe("what is captured", () => {
  test("[MD33] each transaction is one event, and a provider's updates are events", () => {
    const doc = model.create();
    const tracker = model.track(doc);
    model.change(doc, () => {
      doc.getText("text").insert(0, "a");
      doc.getMap("map").set("k", 1);
    });
    const typing = typed(2, "xy");
    for (const update of typing) Y.applyUpdate(doc, update, "provider");
    const taken = tracker.take(doc);
    expect(taken.length).toBe(3);
    expect(taken.slice(1)).toEqual(typing);
  });

  test("[MD33] a provider's update that came too early is captured before it is complete", () => {
    const [first, second, third] = typed(1, "abc") as [Uint8Array, Uint8Array, Uint8Array];
    const [removal] = updatesOf(3, (doc) => doc.getText("text").delete(0, 1), [first, second, third]);
    const doc = model.create();
    const tracker = model.track(doc);
    Y.applyUpdate(doc, third, "provider");
    const early = tracker.take(doc);
    expect(early.length).toBe(1);
    Y.applyUpdate(doc, removal!, "provider");
    early.push(...tracker.take(doc));
    expect(early.length).toBe(2);
    model.apply(doc, [first, second]);
    expect(tracker.take(doc)).toEqual([]);
    expect(doc.getText("text").toString()).toBe("bc");
    expect(model.fold(undefined, [...early, first, second]).version).toEqual(model.version(doc));
  });

  test("[MD33] events that apply holds are not captured", () => {
    const [first, second, third] = typed(1, "abc") as [Uint8Array, Uint8Array, Uint8Array];
    const doc = model.create();
    const tracker = model.track(doc);
    model.apply(doc, [third]);
    model.apply(doc, [second]);
    model.apply(doc, [first]);
    expect(tracker.take(doc)).toEqual([]);
  });

  test("[MD33] apply inside a transaction is a programming mistake", () => {
    const doc = model.create();
    const act = () => doc.transact(() => model.apply(doc, typed(1, "a")));
    expect(act).toThrow(TypeError);
  });

  test("[MD33] observers are told once for many events, and are told that they came from elsewhere", () => {
    const doc = model.create();
    const locals: boolean[] = [];
    doc.getText("text").observe((event) => void locals.push(event.transaction.local));
    model.apply(doc, typed(1, "many events"));
    expect(locals).toEqual([false]);
  });
});

describe("inside observers", () => {
  test("[MD32] events applied in an observer are not cleaned up after, nor captured", () => {
    const base = typed(1, "hello world");
    const bold = (clientID: number) =>
      updatesOf(clientID, (doc) => doc.getText("text").format(0, 5, { bold: true }), base);
    const doc = model.create();
    doc.getText("text");
    const tracker = model.track(doc);
    let pending = [bold(2), bold(3)];
    doc.getMap("map").observe(() => {
      for (const events of pending.splice(0)) model.apply(doc, events);
    });
    model.apply(doc, base);
    doc.getMap("map").set("k", 1);
    expect(pending).toEqual([]);
    const own = tracker.take(doc);
    expect(own.length).toBe(1);
    pending = [bold(2), bold(3)];
    const { version } = model.fold(undefined, [...base, ...pending.flat(), ...own]);
    expect(model.version(doc)).toEqual(version);
  });

  test("[MD33] an observer that throws is heard, and the events and later edits are not lost", () => {
    const doc = model.create();
    const tracker = model.track(doc);
    const failing = () => {
      throw new RangeError("observer");
    };
    for (const name of ["beforeObserverCalls", "afterTransaction", "afterTransactionCleanup"] as const) {
      doc.on(name, failing);
      expect(() => model.apply(doc, typed(name.length, "abc"))).toThrow("observer");
      doc.off(name, failing);
    }
    expect(doc.getText("text").length).toBe(9);
    doc.getText("text").insert(0, "own");
    expect(tracker.take(doc).length).toBe(1);
  });

  test("[MD33] where it is told of what observers throw, apply says what became of the events", () => {
    const [first, second] = typed(1, "ab") as [Uint8Array, Uint8Array];
    const doc = model.create();
    doc.on("afterTransaction", () => {
      throw new RangeError("observer");
    });
    const thrown: unknown[] = [];
    const onThrown = (error: unknown) => void thrown.push(error);
    expect(model.apply(doc, [second], onThrown).held).toEqual([0]);
    expect(model.apply(doc, [second, first], onThrown)).toMatchObject({ applied: 2, held: [], refused: [] });
    expect(thrown).toEqual([new RangeError("observer"), new RangeError("observer")]);
  });
});

test("[MD38] a save right after a listener threw, or in one, stores the edit that it was told of", async () => {
  const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [yjs()] });
  const endings = ["beforeObserverCalls", "afterTransaction", "afterTransactionCleanup", "update"] as const;
  for (const throwing of [true, false]) {
    for (const name of endings) {
      const id = `${name} ${throwing}`;
      const handle = await storage.open<Y.Doc>(id);
      const text = handle.doc.getText("text");
      let saved: Promise<unknown> | undefined;
      const listener = () => {
        if (throwing) throw new RangeError("listener");
        saved = handle.save();
      };
      // Before and after the tracker listens itself.
      for (const edit of ["one ", "two "]) {
        handle.doc.once(name, listener);
        const insert = () => text.insert(0, edit);
        if (throwing) expect(insert).toThrow("listener");
        else insert();
        if (throwing && name === "afterTransactionCleanup") expect(handle.unsaved).toBe(true);
        await (saved ?? handle.save());
        expect((await storage.load<Y.Doc>(id))?.doc.getText("text").toString()).toBe(text.toString());
        expect(handle.unsaved).toBe(false);
      }
      text.insert(0, "three ");
      await handle.save();
      expect((await storage.load<Y.Doc>(id))?.doc.getText("text").toString()).toBe("three two one ");
    }
  }
  await storage.close();
});

test("[MD37] a struct that clashes with a collected one and reaches beyond it is collected too", () => {
  const nested = updatesOf(1, (doc) => {
    const text = new Y.Text("bc");
    doc.getMap("map").set("k", text);
    doc.getMap("map").delete("k");
  });
  const [clashing] = updatesOf(1, (doc) => doc.getText("text").insert(0, "abcdef"));
  const doc = model.create();
  model.apply(doc, nested);
  const { held, refused } = model.apply(doc, [clashing!]);
  expect([held, refused]).toEqual([[], []]);
  expect(Y.getState(doc.store, 1)).toBe(6);
  expect(model.version(model.restore(model.snapshot(doc)))).toEqual(model.version(doc));
});

test("[MD37] a struct that clashes in part goes on where the known part is", () => {
  const [clashing] = updatesOf(1, (doc) => doc.getText("other").insert(0, "abcdef"));
  const doc = model.create();
  model.apply(doc, typed(1, "abc"));
  model.apply(doc, [clashing!]);
  const restored = model.restore(model.snapshot(doc));
  for (const same of [doc, restored]) {
    expect([same.getText("text").toString(), same.getText("text").length]).toEqual(["abcdef", 6]);
    expect(same.getText("other").length).toBe(0);
  }
});

test("[MD37] histories in which ids clash never make apply throw, and edits are still captured", () => {
  for (let seed = 1; seed <= 60; seed++) {
    const random = seeded(seed);
    // The same client ids in both: different structs under the same ids.
    const clashing = [...writeTogether(random, 2, 30).events, ...writeTogether(random, 2, 30).events];
    const doc = model.create();
    const tracker = model.track(doc);
    const order = shuffled(random, [...clashing, Y.mergeUpdates(clashing.slice(0, 20))]);
    while (order.length > 0) model.apply(doc, order.splice(0, 1 + below(random, 12)));
    expect(tracker.take(doc)).toEqual([]);
    doc.getText("text").insert(0, "own");
    expect(tracker.take(doc).length).toBe(1);
    model.restore(model.snapshot(doc));
  }
});

describe("frontier", () => {
  test("[MD23] a server that only receives sees a collapse when one client builds on the other's last", () => {
    const left = typed(1, "abc");
    const right = typed(2, "x");
    const server = model.create();
    model.apply(server, [...left, ...right]);
    expect(model.frontierSize!(server)).toBe(2);
    const merged = new Y.Doc();
    for (const update of [...left, ...right]) Y.applyUpdate(merged, update);
    merged.clientID = 2;
    const before = Y.encodeStateVector(merged);
    const text = merged.getText("text");
    text.insert(text.toString().indexOf("c") + 1, "y");
    model.apply(server, [Y.encodeStateAsUpdate(merged, before)]);
    expect(model.frontierSize!(server)).toBe(1);
    expect(model.frontierSize!(model.restore(model.snapshot(server)))).toBe(1);
  });

  test("[MD23] building on an older character is not taken for having seen the last", () => {
    const left = typed(1, "abc");
    const doc = model.create();
    model.apply(doc, left);
    expect(model.frontierSize!(doc)).toBe(1);
    model.apply(
      doc,
      updatesOf(2, (old) => old.getText("text").insert(1, "x"), left.slice(0, 2)),
    );
    expect(model.frontierSize!(doc)).toBe(2);
  });

  test("[MD23] a deletion alone leaves the frontier as it is", () => {
    const doc = model.create();
    model.apply(doc, [...typed(1, "abc"), ...typed(2, "x")]);
    expect(model.frontierSize!(doc)).toBe(2);
    doc.getText("text").delete(0, 1);
    expect(model.frontierSize!(doc)).toBe(2);
  });
});

describe("diff", () => {
  const { events } = writeTogether(seeded(7), 3, 120);
  const cut = events.length - 10;
  const { snapshot, version, peerVersion } = model.fold(undefined, events.slice(0, cut));
  const whole = model.fold(undefined, events);
  const tail = events.slice(cut);

  test("[MD21] a peer that has the snapshot's structs is answered without its bytes, deletions included", () => {
    const stored = { version, peerVersion, snapshot: undefined, tail };
    const peer = new Y.Doc();
    // All structs, but none of the later deletions.
    const structs = Y.mergeUpdates(events.slice(0, cut).filter((event) => event.at(-1) === 0));
    Y.applyUpdate(peer, structs);
    const partial = model.diff!(stored, Y.encodeStateVector(peer));
    const full = model.diff!(stored, peerVersion);
    expect(full).toBeDefined();
    expect(full!.length).toBeLessThan(snapshot.length / 2);
    Y.applyUpdate(peer, partial ?? model.diff!({ ...stored, snapshot }, Y.encodeStateVector(peer))!);
    expect(model.version(peer)).toEqual(whole.version);
    const second = new Y.Doc();
    Y.applyUpdate(second, snapshot);
    Y.applyUpdate(second, full!);
    expect([model.version(second), contentOf(second)]).toEqual([
      whole.version,
      contentOf(model.restore(whole.snapshot)),
    ]);
  });

  test("[MD21] a peer that lacks structs is answered after the snapshot was given", () => {
    const empty = Uint8Array.of(0);
    expect(model.diff!({ version, peerVersion, snapshot: undefined, tail }, empty)).toBeUndefined();
    const answer = model.diff!({ version, peerVersion, snapshot, tail }, empty)!;
    expect(model.fold(undefined, [answer]).version).toEqual(whole.version);
  });

  test("[MD21] a text that the peer has in part is cut at its clock", () => {
    const long = typed(1, "x".repeat(1000));
    const stored = model.fold(undefined, long);
    const peer = model.fold(undefined, long.slice(0, 999));
    const answer = model.diff!({ ...stored, tail: [] }, peer.peerVersion)!;
    expect(answer.length).toBeLessThan(20);
    expect(model.fold(peer.snapshot, [answer]).version).toEqual(stored.version);
  });

  test("[MD21] held events are offered to the peer too", () => {
    const [first, second, third] = typed(1, "abc") as [Uint8Array, Uint8Array, Uint8Array];
    const stored = model.fold(undefined, [first]);
    const answer = model.diff!({ ...stored, snapshot: undefined, tail: [third] }, stored.peerVersion)!;
    const peer = new Y.Doc();
    for (const update of [first, answer, second]) Y.applyUpdate(peer, update);
    expect(peer.getText("text").toString()).toBe("abc");
  });

  test("[MD21] nothing new is the empty update", () => {
    const stored = { version: undefined, peerVersion: undefined, snapshot: undefined, tail: [] };
    expect(model.diff!(stored, Uint8Array.of(0))).toEqual(Uint8Array.of(0, 0));
  });

  test("[MD22] a damaged snapshot and a damaged state vector are refused", () => {
    const stored = { version, peerVersion, snapshot: snapshot.slice(0, -1), tail };
    expect(() => model.diff!(stored, Uint8Array.of(0))).toThrow("not a Yjs update");
    for (const bad of [[], [1], [1, 1], [2, 1, 1, 1, 2], [0, 0], [1, 128, 128]]) {
      expect(() => model.diff!({ ...stored, snapshot }, Uint8Array.from(bad))).toThrow(TypeError);
    }
  });
});

test("[MD34] the worker address makes the same model again", async () => {
  const { module, export: name, options } = yjs({ gc: false }).worker!;
  const made = (await import(/* @vite-ignore */ module))[name](options) as YjsModel;
  const events = typed(1, "abc");
  expect(made.name).toBe("yjs");
  expect(equalBytes(made.fold(undefined, events).snapshot, model.fold(undefined, events).snapshot)).toBe(
    true,
  );
});

test("[MD12] two updates in one event are refused", () => {
  const [first, second] = typed(1, "ab") as [Uint8Array, Uint8Array];
  expect(() => model.check!([concatBytes([first, second])])).toThrow("bytes follow the end");
  model.check!([first, second, Y.mergeUpdates([first, second])]);
});
