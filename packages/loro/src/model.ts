/**
 * The Loro model: documents are `LoroDoc`, events are exported updates, a snapshot is Loro's own.
 *
 * Invariants: every document that is handed out writes under a peer id of its own; a snapshot never holds
 * pending updates, because storage keeps those; a shallow snapshot is cut at a critical version only.
 */

import { binaryCodec, checkOptions, equalBytes, type Folded, type Model, type OptionKinds } from "coppice";
import { LoroDoc } from "loro-crdt";
import { applyEvents, forgetOrigin, rememberOrigin } from "./apply.js";
import { diffStored } from "./diff.js";
import { criticalVersion } from "./shallow.js";
import { trackDoc } from "./tracker.js";
import { checkEvent, importAll, linksOf, readMeta } from "./update.js";
import { clocksOf, encodeClocks } from "./version.js";

export interface LoroOptions {
  /**
   * Let snapshots forget old history: they are cut at the newest critical version that leaves at least
   * `keepOps` operations after it. An event of a replica that had not seen the cut is refused afterwards
   * (its bytes are kept), so keep what replicas write while the slowest of them is away. Default: the whole
   * history.
   */
  readonly shallow?: { readonly keepOps: number };
}

const OPTIONS: OptionKinds<LoroOptions> = { shallow: "any" };

/** The model that `loro()` makes. */
export type LoroModel = Model<LoroDoc, Uint8Array>;

/**
 * Keeps Loro documents. Peer versions are `doc.oplogVersion().encode()`, and `diff` answers are for
 * `doc.import`. Throws a `RangeError` for `keepOps` that is not a count.
 */
export function loro(options: LoroOptions = {}): LoroModel {
  checkOptions("loro", options, OPTIONS);
  const keepOps = options.shallow?.keepOps;
  if (keepOps !== undefined && (!Number.isSafeInteger(keepOps) || keepOps < 0)) {
    throw new RangeError("shallow.keepOps must be a safe integer from 0");
  }
  const snapshot = (doc: LoroDoc) => snapshotOf(doc, keepOps);
  return {
    name: "loro",
    stateFormat: 1,
    create,
    restore,
    dispose: (doc) => doc.free(),
    apply: applyEvents,
    change: (doc, fn) => {
      forgetOrigin(doc);
      fn(doc);
      doc.commit();
      return doc;
    },
    track: (doc) => {
      forgetOrigin(doc);
      return trackDoc(doc);
    },
    check: (events) => {
      for (const event of events) checkEvent(event);
    },
    links: linksOf,
    // A live document may know more history than the stored snapshot: what it takes, a later load may
    // refuse.
    holds: (doc) => keepOps !== undefined || doc.exportPendingUpdates() !== undefined,
    snapshot,
    version: versionOf,
    peerVersion: versionOf,
    frontierSize: (doc) => doc.oplogFrontiers().length,
    fold: (base, events): Folded => {
      const applied = applyEvents(base === undefined ? create() : restore(base), events);
      const { held, refused } = applied;
      const doc = events.length === 0 ? applied.doc : written(applied.doc);
      try {
        const version = versionOf(doc);
        return { snapshot: snapshot(doc), version, peerVersion: version, held, refused };
      } finally {
        doc.free();
      }
    },
    diff: diffStored,
    covers: (doc, snapshot) => {
      const other = restore(snapshot);
      try {
        const order = other.oplogVersion().compare(doc.oplogVersion());
        return order !== undefined && order <= 0;
      } finally {
        other.free();
      }
    },
    codec: binaryCodec,
    worker: {
      module: new URL("./coppice-loro-thread.js", import.meta.url).href,
      export: "loro",
      options,
    },
  };
}

function create(): LoroDoc {
  const doc = new LoroDoc();
  rememberOrigin(doc, undefined);
  return doc;
}

function restore(snapshot: Uint8Array): LoroDoc {
  const { mode } = readMeta(snapshot);
  if (mode !== "snapshot" && mode !== "shallow-snapshot") {
    throw new TypeError(`not a Loro snapshot, but of the mode ${mode}`);
  }
  const doc = new LoroDoc();
  if (importAll(doc, [snapshot]).pending !== null) {
    throw new TypeError("not a Loro snapshot: it builds on operations that it lacks");
  }
  rememberOrigin(doc, snapshot);
  return doc;
}

/**
 * The same document as if it had been written in one go. What was imported in many small updates stays in
 * small pieces, so its snapshot is larger by a third and applies later events six times slower than one
 * that came in one update. Takes the place of `doc`, which is freed.
 */
function written(doc: LoroDoc): LoroDoc {
  if (doc.isShallow()) return doc;
  const next = new LoroDoc();
  importAll(next, [doc.export({ mode: "update" })]);
  const same = equalBytes(versionOf(next), versionOf(doc));
  (same ? doc : next).free();
  return same ? next : doc;
}

function snapshotOf(doc: LoroDoc, keepOps: number | undefined): Uint8Array {
  doc.commit();
  const root = keepOps === undefined ? undefined : criticalVersion(doc, keepOps);
  if (root === undefined) return doc.export({ mode: "snapshot" });
  const shallow = doc.export({ mode: "shallow-snapshot", frontiers: [root] });
  const restored = restore(shallow);
  try {
    // Loro moves a root that it finds unfit; whatever it did, nothing but history may be missing.
    return equalBytes(versionOf(restored), versionOf(doc)) ? shallow : doc.export({ mode: "snapshot" });
  } finally {
    restored.free();
  }
}

function versionOf(doc: LoroDoc): Uint8Array {
  return encodeClocks(clocksOf(doc));
}
