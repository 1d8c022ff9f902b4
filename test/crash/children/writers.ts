/**
 * The process that the tests kill: many callers of one storage, each with one event in flight.
 *
 * Arguments: backend, location, durability, round, whether to compact all the time ("compact"). Each caller says on standard
 * output, in one write call, `caller number` after its event of that number was acknowledged, and first `OPEN` once
 * the storage is open. Numbers begin at 1 in each round; a caller's next event is submitted after the last one was
 * acknowledged. It goes on until it is killed.
 */

import { writeSync } from "node:fs";
import { yjs } from "@coppice/yjs";
import { DocumentStorage, everyEvents } from "coppice";
import type { Doc } from "yjs";
import { nameSet, naming } from "../../support/oracle-model.js";
import { type KilledBackend, killedBackend } from "../laboratory/stores.js";
import { APPENDERS, DOCUMENTS, EDITORS } from "./callers.js";

const [backend, location, durability, round, mode] = process.argv.slice(2) as [
  KilledBackend,
  string,
  "power" | "process",
  string,
  string,
];
const say = (text: string): void => void writeSync(1, `${text}\n`);

const storage = await DocumentStorage.open({
  backend: killedBackend(backend, location, durability),
  models: [nameSet(), yjs()],
  snapshotPolicy: everyEvents(200),
});
say("OPEN");

async function append(caller: number): Promise<never> {
  const id = `names-${caller % DOCUMENTS}`;
  for (let number = 1; ; number++) {
    const event = naming(`${round}.${caller}.${number}`);
    if (number % 3 === 0) await storage.append(id, [event], { commitId: storage.newCommitId() });
    else if (number % 3 === 1) await storage.append(id, [event], { info: { caller } });
    else await storage.append(id, [event]);
    say(`${caller} ${number}`);
  }
}

/** Types the round and the number, so that the text tells what was saved. */
async function edit(editor: number): Promise<never> {
  const handle = await storage.open<Doc>(`text-${editor}`, { model: "yjs" });
  const text = handle.doc.getText("t");
  for (let number = 1; ; number++) {
    text.insert(text.length, `${round}.${number} `);
    await handle.save();
    say(`${APPENDERS + editor} ${number}`);
  }
}

async function compact(): Promise<never> {
  for (;;) {
    for await (const id of storage.list()) await storage.compact(id);
  }
}

await Promise.all([
  ...Array.from({ length: APPENDERS }, (_, caller) => append(caller)),
  ...Array.from({ length: EDITORS }, (_, editor) => edit(editor)),
  ...(mode === "compact" ? [compact()] : []),
]);
