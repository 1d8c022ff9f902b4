/**
 * Saves a document through automerge-repo until the next save compacts, and kills itself (SIGKILL) at one step of that
 * compaction.
 *
 * usage: compactor <adapter> <folder> <document id> <step> <turns>; step: the number of the call that automerge-repo
 * makes on the adapter, counted from the save of the snapshot; turns: -1 before the call, 0 to n that many turns of
 * the event loop after it was made, "end" after it resolved. Prints each line that was saved.
 */

import { writeSync } from "node:fs";
import * as Automerge from "@automerge/automerge";
import { type DocumentId, Repo } from "@automerge/automerge-repo";
import type { RepoStorage } from "../../src/index.js";
import { openAdapter } from "./adapters.js";

type Note = { text: string; lines: string[] };

const [, , name, folder, documentId, step, turns] = process.argv as unknown as string[];
const id = documentId as DocumentId;
const { adapter } = await openAdapter(name!, folder!);

let armed = false;
let calls = 0;
const die = () => process.kill(process.pid, "SIGKILL");

async function counted<T>(call: () => Promise<T>): Promise<T> {
  if (!armed || calls++ !== Number(step)) return call();
  if (turns === "-1") die();
  const result = call();
  if (turns !== "end") {
    for (let turn = 0; turn < Number(turns); turn++) await new Promise((resolve) => setImmediate(resolve));
    die();
  }
  const value = await result;
  die();
  return value;
}

const watched: RepoStorage = {
  load: (key) => adapter.load(key),
  loadRange: (prefix) => adapter.loadRange(prefix),
  removeRange: (prefix) => adapter.removeRange(prefix),
  save: (key, data) => {
    if (key[1] === "snapshot" && saved > 1) armed = true;
    return counted(() => adapter.save(key, data));
  },
  remove: (key) => counted(() => adapter.remove(key)),
};

const storage = new Repo({ storage: watched }).storageSubsystem!;
let saved = 0;
let doc = Automerge.from<Note>({ text: noise(9000), lines: [] });
for (; saved < 12; saved++) {
  doc = Automerge.change(doc, (note) => {
    note.lines.push(`line ${saved}`);
    Automerge.splice(note as Automerge.Doc<Note>, ["text"], 0, 0, noise(5000));
  });
  await storage.saveDoc(id, doc);
  writeSync(1, `line ${saved}\n`);
  if (armed) break;
}
// The compaction had fewer steps than that.
process.exit(0);

function noise(count: number): string {
  return Array.from({ length: count }, () => String.fromCharCode(33 + Math.floor(Math.random() * 90))).join(
    "",
  );
}
