/**
 * A process that has a store open: y-leveldb's ("theirs") or ours.
 *
 * Arguments: whose, location. Stores one update, says `OPEN`, and stays until it is killed.
 */
import { writeSync } from "node:fs";
import { LeveldbPersistence as Ours } from "@coppice/yjs/y-leveldb";
import { LeveldbPersistence as Theirs } from "y-leveldb";
import * as Y from "yjs";

const [whose, location] = process.argv.slice(2) as [string, string];
const persistence = whose === "ours" ? new Ours(location) : new Theirs(location);
const doc = new Y.Doc();
doc.getText("t").insert(0, "first");
await persistence.storeUpdate("doc", Y.encodeStateAsUpdate(doc));
writeSync(1, "OPEN\n");
setInterval(() => undefined, 1000);
