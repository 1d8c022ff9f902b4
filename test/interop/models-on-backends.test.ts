// Every model on every backend, through the whole life of a document: two handles that write at once, an event
// that comes before what it builds on, compactions, a closed and reopened store, bad bytes, and a check at the end.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as Automerge from "@automerge/automerge";
import { automerge } from "@coppice/automerge";
import { fileLogBackend } from "@coppice/file";
import { levelBackend } from "@coppice/level";
import { loro } from "@coppice/loro";
import { yjs } from "@coppice/yjs";
import {
  type AnyModel,
  type BackendFactory,
  DocumentStorage,
  memoryBackend,
  never,
  type TreeDocument,
  tree,
} from "coppice";
import { simulatedBackend } from "coppice/testing";
import type { LoroDoc } from "loro-crdt";
import { describe, expect, test } from "vitest";
import type * as Y from "yjs";

interface Kind {
  readonly model: () => AnyModel;
  /** Adds a line to the document. */
  readonly write: (doc: unknown, line: string) => unknown;
  /** Takes the first character away. */
  readonly remove: (doc: unknown) => unknown;
  readonly lines: (doc: unknown) => string[];
}

const automergeList = (doc: unknown, fn: (lines: string[]) => void) =>
  Automerge.change(doc as Automerge.Doc<{ lines?: string[] }>, (draft) => {
    draft.lines ??= [];
    fn(draft.lines);
  });

const KINDS: Record<string, Kind> = {
  yjs: {
    model: () => yjs(),
    write: (doc, line) => (doc as Y.Doc).getArray("lines").push([line]),
    remove: (doc) => (doc as Y.Doc).getArray("lines").delete(0),
    lines: (doc) => (doc as Y.Doc).getArray<string>("lines").toArray(),
  },
  automerge: {
    model: () => automerge(),
    write: (doc, line) => automergeList(doc, (lines) => lines.push(line)),
    remove: (doc) => automergeList(doc, (lines) => lines.splice(0, 1)),
    lines: (doc) => (doc as Automerge.Doc<{ lines?: string[] }>).lines ?? [],
  },
  loro: {
    model: () => loro(),
    write: (doc, line) => (doc as LoroDoc).getList("lines").push(line),
    remove: (doc) => (doc as LoroDoc).getList("lines").delete(0, 1),
    lines: (doc) => (doc as LoroDoc).getList("lines").toArray() as string[],
  },
};

const TREE: Kind = {
  model: () => tree(),
  write: (doc, line) => (doc as TreeDocument).put({ attributes: { line } }),
  remove: (doc) => (doc as TreeDocument).delete((doc as TreeDocument).find()[0]!.id),
  lines: (doc) => (doc as TreeDocument).find().map(({ attributes }) => String(attributes.line)),
};

const BACKENDS: Record<string, (folder: string) => BackendFactory> = {
  memory: () => memoryBackend(),
  file: (folder) => fileLogBackend(join(folder, "store")),
  level: (folder) => levelBackend(join(folder, "store")),
};

async function withFolder(run: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "coppice-models-"));
  try {
    await run(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

describe.for(
  Object.keys(KINDS).flatMap((kind) => Object.keys(BACKENDS).map((backend) => [kind, backend] as const)),
)("%s on %s", ([kind, backendName]) => {
  const { model, write, remove, lines } = KINDS[kind]!;
  const shown = (doc: unknown) => [...lines(doc)].sort();

  test("[MD40] what two handles write at once is shown by both, and by every later load of the store", () =>
    withFolder(async (folder) => {
      const backend = BACKENDS[backendName]!(folder);
      const open = () => DocumentStorage.open({ backend, models: [model()], snapshotPolicy: never });
      const storage = await open();
      const one = await storage.open("d", { initial: (doc) => write(doc, "0") });
      const two = await storage.open("d");
      for (let i = 1; i <= 6; i++) {
        one.change((doc) => write(doc, `a${i}`));
        two.change((doc) => write(doc, `b${i}`));
        await Promise.all([one.save(), two.save()]);
        await Promise.all([one.refresh(), two.refresh()]);
        if (i % 3 === 0) expect((await storage.compact("d", { force: true })).outcome).toBe("compacted");
      }
      one.change((doc) => remove(doc));
      await one.save();
      await two.refresh();
      expect(shown(one.doc)).toHaveLength(12);
      expect(shown(two.doc)).toEqual(shown(one.doc));
      const { peerVersion, version } = model();
      expect(version(two.doc)).toEqual(version(one.doc));
      const present = shown(one.doc);
      expect(await storage.diff("d", peerVersion(model().create()))).toBeInstanceOf(Uint8Array);
      expect((await storage.check()).problems).toEqual([]);
      await storage.close();
      const again = await open();
      const loaded = (await again.load("d"))!;
      expect([shown(loaded.doc), loaded.held]).toEqual([present, []]);
      await again.close();
    }));

  test("[MD41] an event that came too early outlives compactions and reopening, and bad bytes never come in", () =>
    withFolder(async (folder) => {
      const backend = BACKENDS[backendName]!(folder);
      const open = () => DocumentStorage.open({ backend, models: [model()], snapshotPolicy: never });
      const author = model();
      let doc = author.create();
      const tracker = author.track(doc);
      const events = ["first", "second", "third"].flatMap((line) => {
        doc = author.change(doc, (draft) => write(draft, line));
        return tracker.take(doc);
      });
      expect(events).toHaveLength(3);
      let storage = await open();
      await storage.append("d", [events[0], events[2]]);
      expect((await storage.compact("d", { force: true })).held).toBe(1);
      await storage.close();
      storage = await open();
      expect((await storage.load("d"))!.held).toHaveLength(1);
      for (const bad of [events[1].slice(0, -1), Uint8Array.of(...events[1], 0), Uint8Array.of(1, 2, 3)]) {
        await expect(storage.append("d", [bad])).rejects.toMatchObject({ code: "EVENT_INVALID" });
      }
      expect((await storage.info("d"))?.clock).toBe(2);
      await storage.append("d", [events[1]]);
      const loaded = (await storage.load("d"))!;
      expect([lines(loaded.doc), loaded.held]).toEqual([["first", "second", "third"], []]);
      await storage.compact("d", { force: true });
      expect((await storage.check()).problems).toEqual([]);
      await storage.close();
    }));
});

test("[CK11] of several models that one is found whose events they are, when a document lost its meta", async () => {
  const backend = simulatedBackend();
  const kinds: Record<string, Kind> = { ...KINDS, tree: TREE };
  const storage = await DocumentStorage.open({
    backend,
    models: Object.values(kinds).map(({ model }) => model()),
    snapshotPolicy: never,
  });
  for (const [name, { write, remove }] of Object.entries(kinds)) {
    for (const edits of [1, 2, 30]) {
      const handle = await storage.open(`${name} ${edits}`, { model: name });
      for (let i = 1; i < edits; i++) handle.change((doc) => write(doc, `line ${i}`));
      if (edits > 2) handle.change((doc) => remove(doc));
      handle.change((doc) => write(doc, "last"));
      await handle.save();
      await handle.close();
    }
  }
  const ids = Object.keys(kinds).flatMap((name) => [1, 2, 30].map((edits) => `${name} ${edits}`));
  const seen = () =>
    Promise.all(ids.map(async (id) => kinds[id.split(" ")[0]!]!.lines((await storage.load(id))!.doc)));
  const before = await seen();
  for (const id of ids) backend.deleteRaw(["meta", id]);
  const report = await storage.check({ repair: true });
  expect(report.problems.map(({ code, repaired }) => `${code} ${repaired}`)).toEqual(
    ids.map(() => "meta-missing true"),
  );
  expect(await seen()).toEqual(before);
  await storage.close();
});
