/**
 * The process that the tests kill while it copies: a store in use, and copies of it to another one, one after the
 * other.
 *
 * Arguments: the two stores, as `level:` or `file:` and a directory. Event n of a document names the clock before it, so a document at clock c holds the
 * names 0 to c − 1 and nothing else. It says `OPEN` once both are open, and after each copy, on one line, the clocks
 * at which it copied (`{ "<id>": <clock> }`). It goes on until it is killed.
 */

import { writeSync } from "node:fs";
import { fileLogBackend } from "@coppice/file";
import { levelBackend } from "@coppice/level";
import { DocumentStorage, everyEvents } from "coppice";
import { nameSet, naming } from "../../support/oracle-model.js";

const [source, target] = process.argv.slice(2) as [string, string];
const say = (text: string): void => void writeSync(1, `${text}\n`);

function open(store: string) {
  const [scheme, location = ""] = store.split(/:(.*)/s);
  return DocumentStorage.open({
    // Small buffers, segments and commits, so that the backend and the copy are often at work when they are killed.
    backend:
      scheme === "file"
        ? fileLogBackend(location, { durability: "process", segmentBytesMax: 256 * 1024 })
        : levelBackend(location, { durability: "process", writeBufferBytes: 64 * 1024 }),
    models: [nameSet()],
    snapshotPolicy: everyEvents(50),
    limits: { groupBytesMax: 2000 },
  });
}

const [from, to] = [await open(source), await open(target)];
say("OPEN");

async function write(id: string): Promise<never> {
  for (let clock = (await from.info(id))?.clock ?? 0; ; clock++) {
    await from.append(id, [naming(`${clock}`)]);
    if (clock % 40 === 39) await from.compact(id);
    if (clock % 100 === 99) await from.tag(id, `at ${clock}`);
  }
}

async function copy(): Promise<never> {
  for (;;) {
    const { documents, failures } = await from.copyTo(to);
    if (failures.length > 0) throw failures[0]!.error;
    say(JSON.stringify(Object.fromEntries(documents.map(({ id, clock }) => [id, clock]))));
    // A copy of nothing out of memory never waits for the system, and the writers must get a turn.
    await new Promise((resolve) => setImmediate(resolve));
  }
}

await Promise.all([...["a", "b", "c", "d", "e"].map(write), copy()]);
