/**
 * The Automerge model: documents are `Automerge.Doc`, events are single changes, a snapshot is one saved
 * document.
 *
 * Invariants: documents are immutable, each change gives a new one; every document that is handed out
 * writes under an actor of its own; a snapshot never holds changes that wait for others, because storage
 * keeps those.
 */

import * as Automerge from "@automerge/automerge";
import { binaryCodec, checkOptions, type Folded, type Model } from "coppice";
import { applyEvents, forgetOrigin, rememberOrigin } from "./apply.js";
import { linksOf, readChange } from "./changes.js";
import { chunkProblem, splitChunks } from "./chunk.js";
import { diffStored } from "./diff.js";
import { encodeHeads } from "./heads.js";
import { hasQueue, headsOf, trackDoc } from "./tracker.js";

/** The model that `automerge()` makes, for documents of the shape `T`. */
export type AutomergeModel<T = unknown> = Model<Automerge.Doc<T>, Uint8Array>;

type Doc = Automerge.Doc<unknown>;

/**
 * Keeps Automerge documents. `handle.change` takes what returns the new document:
 * `handle.change((doc) => Automerge.change(doc, (draft) => { … }))`. Peer versions are made by
 * `encodeHeads`, and `diff` answers are for `Automerge.loadIncremental`. It has no options.
 */
export function automerge<T = unknown>(options: Readonly<Record<string, never>> = {}): AutomergeModel<T> {
  checkOptions("automerge", options, {});
  const model: AutomergeModel = {
    name: "automerge",
    stateFormat: 1,
    ready: () => Automerge.wasmInitialized(),
    create: () => Automerge.init(),
    restore,
    dispose: (doc) => Automerge.free(doc),
    apply: applyEvents,
    change,
    track: (doc) => {
      forgetOrigin(doc);
      return trackDoc(doc);
    },
    check: (events) => {
      for (const event of events) readChange(event);
    },
    links: linksOf,
    holds: hasQueue,
    snapshot: snapshotOf,
    version: versionOf,
    peerVersion: versionOf,
    frontierSize: (doc) => headsOf(doc).length,
    fold,
    diff: diffStored,
    covers: (doc, snapshot) => {
      const other = restore(snapshot);
      try {
        return Automerge.hasHeads(doc, headsOf(other));
      } finally {
        Automerge.free(other);
      }
    },
    codec: binaryCodec,
    worker: {
      module: new URL("./coppice-automerge-thread.js", import.meta.url).href,
      export: "automerge",
      options: undefined,
    },
  };
  return model as AutomergeModel<T>;
}

function restore(snapshot: Uint8Array): Doc {
  const problem = chunkProblem(snapshot, "document");
  if (problem !== undefined) throw new TypeError(`not an Automerge snapshot: ${problem}`);
  const doc = Automerge.load<unknown>(snapshot);
  rememberOrigin(doc, snapshot);
  return doc;
}

function change(doc: Doc, fn: (doc: Doc) => unknown): Doc {
  const before = headsOf(doc);
  const next = fn(doc);
  if (!Automerge.isAutomerge(next)) {
    throw new TypeError(
      "the function must return the new document: (doc) => Automerge.change(doc, (draft) => …)",
    );
  }
  if (!Automerge.hasHeads(next as Doc, before)) {
    throw new TypeError("the document that the function returned lacks changes of the one it was given");
  }
  forgetOrigin(doc);
  return next as Doc;
}

function fold(snapshot: Uint8Array | undefined, events: readonly Uint8Array[]): Folded {
  const base = snapshot === undefined ? Automerge.init<unknown>() : restore(snapshot);
  const { doc, held, refused } = applyEvents(base, events);
  try {
    const version = versionOf(doc);
    return { snapshot: snapshotOf(doc), version, peerVersion: version, held, refused };
  } finally {
    Automerge.free(doc);
  }
}

/** Automerge saves what waits in its queue behind the document; storage keeps those events itself. */
function snapshotOf(doc: Doc): Uint8Array {
  const [document] = splitChunks(Automerge.save(doc));
  return document!.bytes.slice();
}

function versionOf(doc: Doc): Uint8Array {
  return encodeHeads(headsOf(doc));
}
