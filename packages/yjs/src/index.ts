/**
 * The Yjs model: documents are `Y.Doc`, events are Yjs v1 updates, snapshots are one v1 update of everything.
 *
 * Invariants: a document is a function of the set of its events (formatting cleanup is switched off while
 * events are applied); a snapshot never holds pending structs or deletions, because storage keeps held events
 * itself; every document that is handed out writes under a client id that none of its structs has.
 */

import { binaryCodec, checkOptions, equalBytes, type Folded, type Model, type OptionKinds } from "coppice";
import * as Y from "yjs";
import { applyEvents, applySnapshot } from "./apply.js";
import { diffStored } from "./diff.js";
import { frontierSize, watchFrontier } from "./frontier.js";
import { isCollectable } from "./garbage.js";
import { linksOf } from "./links.js";
import { scanUpdate } from "./scanner.js";
import { StoredOrigin, trackDoc } from "./tracker.js";

export interface YjsOptions {
  /** Let Yjs drop the content of what was deleted. Default `true`; `false` keeps it, for Yjs snapshots. */
  readonly gc?: boolean;
}

const OPTIONS: OptionKinds<YjsOptions> = { gc: "flag" };

/** The model that `yjs()` makes. */
export type YjsModel = Model<Y.Doc, Uint8Array>;

/**
 * Keeps Yjs documents. Peer versions are state vectors, and `diff` answers are v1 updates for
 * `Y.applyUpdate`.
 */
export function yjs(options: YjsOptions = {}): YjsModel {
  checkOptions("yjs", options, OPTIONS);
  const gc = options.gc ?? true;
  const create = () => {
    const doc = new Y.Doc({ gc, gcFilter: isCollectable });
    watchFrontier(doc);
    return doc;
  };
  const restore = (snapshot: Uint8Array) => {
    const doc = create();
    applySnapshot(doc, snapshot);
    return doc;
  };
  const origin = new StoredOrigin();
  return {
    name: "yjs",
    stateFormat: 1,
    create,
    restore,
    dispose: (doc) => doc.destroy(),
    apply: (doc, events, onThrown) => applyEvents(doc, events, origin, onThrown),
    change: (doc, fn) => {
      doc.transact(() => fn(doc));
      return doc;
    },
    track: (doc) => trackDoc(doc, origin),
    check: (events) => {
      for (const event of events) scanUpdate(event);
    },
    links: linksOf,
    holds: ({ store }) => store.pendingStructs !== null || store.pendingDs !== null,
    snapshot: snapshotOf,
    version: versionOf,
    peerVersion: (doc) => Y.encodeStateVector(doc),
    frontierSize,
    fold: (snapshot, events): Folded => {
      const doc = snapshot === undefined ? create() : restore(snapshot);
      try {
        const { held, refused } = applyEvents(doc, events);
        return {
          snapshot: snapshotOf(doc),
          version: versionOf(doc),
          peerVersion: Y.encodeStateVector(doc),
          held,
          refused,
        };
      } finally {
        doc.destroy();
      }
    },
    diff: diffStored,
    covers: (doc, snapshot) => {
      const before = versionOf(doc);
      // What waits in it is not what the snapshot builds on.
      doc.store.pendingStructs = null;
      doc.store.pendingDs = null;
      applySnapshot(doc, snapshot);
      return equalBytes(versionOf(doc), before);
    },
    codec: binaryCodec,
    worker: {
      module: new URL("./coppice-yjs-thread.js", import.meta.url).href,
      export: "yjs",
      options: { gc },
    },
  };
}

/** Deletions and state vector, both in one order whatever order the events came in. */
function versionOf(doc: Y.Doc): Uint8Array {
  return Y.encodeSnapshot(Y.snapshot(doc));
}

/** Yjs would merge what is pending into the update; storage keeps those events itself. */
function snapshotOf(doc: Y.Doc): Uint8Array {
  const { pendingStructs, pendingDs } = doc.store;
  doc.store.pendingStructs = null;
  doc.store.pendingDs = null;
  try {
    return Y.encodeStateAsUpdate(doc);
  } finally {
    doc.store.pendingStructs = pendingStructs;
    doc.store.pendingDs = pendingDs;
  }
}
