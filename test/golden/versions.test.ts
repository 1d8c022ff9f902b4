/**
 * Documents that other versions of the CRDT libraries wrote, pinned in `versions.json` with what these versions
 * themselves showed: clients and directories of before are read with the version that is installed now. Entries
 * without `shows` are bytes that the present version of the library does not read.
 */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { automerge } from "@coppice/automerge";
import { loro } from "@coppice/loro";
import { yjs } from "@coppice/yjs";
import { DocumentStorage, fromHex, memoryBackend } from "coppice";
import type { LoroDoc } from "loro-crdt";
import { expect, test } from "vitest";
import type * as Y from "yjs";

interface Written {
  readonly library: "yjs" | "automerge" | "loro";
  readonly version: string;
  readonly events: readonly string[];
  readonly shows?: Record<string, unknown>;
}

const url = new URL("versions.json", import.meta.url);
const all = JSON.parse(readFileSync(fileURLToPath(url), "utf8")) as readonly Written[];
const models = { yjs, automerge, loro };

const readable = all.filter(({ shows }) => shows !== undefined);
const unreadable = all.filter(({ shows }) => shows === undefined);

const shownBy = {
  yjs: (doc: unknown) => {
    const it = doc as Y.Doc;
    const [text, map, xml] = [it.getText("text"), it.getMap("map"), it.getXmlFragment("xml")];
    return { text: text.toString(), map: map.toJSON(), xml: xml.toString() };
  },
  automerge: (doc: unknown) => {
    const { cnt, date, ...rest } = doc as Record<string, unknown> & { cnt: { value: number }; date: Date };
    return { ...rest, cnt: cnt.value, date: date.getTime() };
  },
  loro: (doc: unknown) => {
    const { text, ml, map } = (doc as LoroDoc).toJSON() as Record<string, unknown>;
    return { text, ml, map, nodes: (doc as LoroDoc).getTree("tree").getNodes().length };
  },
};

/** Bytes as numbers, as the file has them. */
const plain = (value: unknown): unknown =>
  JSON.parse(JSON.stringify(value, (_, each) => (each instanceof Uint8Array ? [...each] : each)));

async function storageOf({ library }: Written): Promise<DocumentStorage> {
  const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [models[library]()] });
  await (await storage.open("old")).close();
  return storage;
}

test.each(readable)("[MD42] what $library $version wrote is shown as it showed it", async (written) => {
  const { library, shows } = written;
  const storage = await storageOf(written);
  const events = written.events.map(fromHex);
  // The first one comes last: until then everything that builds on it is held.
  for (const event of [...events.slice(1), events[0]!]) {
    await storage.append("old", [event]);
    await storage.compact("old");
  }
  await storage.fork("old", "fork");
  for (const id of ["old", "fork"]) {
    const loaded = (await storage.load(id))!;
    expect(loaded.held).toEqual([]);
    expect(plain(shownBy[library](loaded.doc))).toMatchObject(shows!);
  }
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
});

test.each(unreadable)("[MD42] what $library cannot read of $version is refused", async (written) => {
  const storage = await storageOf(written);
  const refused = storage.append("old", written.events.map(fromHex));
  await expect(refused).rejects.toMatchObject({ code: "EVENT_INVALID" });
  expect(await storage.info("old")).toMatchObject({ clock: 0 });
  await storage.close();
});

test("[MD42] the packages ask for versions of the libraries with which their own tests pass", () => {
  const asked = (name: string, library: string): string => {
    const manifest = fileURLToPath(new URL(`../../packages/${name}/package.json`, import.meta.url));
    const { peerDependencies } = JSON.parse(readFileSync(manifest, "utf8")) as {
      peerDependencies: Record<string, string>;
    };
    return peerDependencies[library]!;
  };
  // Before 3.4 a change that is sound and impossible breaks all of Automerge in the process.
  expect(asked("automerge", "@automerge/automerge")).toBe("^3.4.0");
  // The oldest one with which all of them pass.
  for (const name of ["yjs", "server", "hocuspocus"]) expect(asked(name, "yjs")).toBe("^13.6.27");
});
