/**
 * One Hocuspocus with one way of storing, in a process of its own: `dropins.mjs` starts it.
 *
 * Arguments: whose ("coppice" or "sqlite"), the folder for its data, and for "sqlite" the folder where
 * `@hocuspocus/extension-sqlite` is installed. Reads one JSON line `{ base, edits, loads }` from standard input (updates
 * in base64, a count), and prints one `{ saveMs, loadMs }`.
 *
 * A save is one edit through a direct connection until `afterStoreDocument` was called: then it is durable. Hocuspocus
 * is told to store at once (debounce 0). A load is a direct connection to a document that is not in memory.
 */
import { createRequire } from "node:module";
import { join } from "node:path";

const ID = "paper";
const [whose, folder, peers] = process.argv.slice(2);
const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const { base, edits, loads } = JSON.parse(Buffer.concat(chunks).toString());

const { Y, Hocuspocus, extension, close } = await open();
let stored = () => {};
const hocuspocus = new Hocuspocus({
  debounce: 0,
  quiet: true,
  extensions: [extension, { extensionName: "told", priority: 1, afterStoreDocument: async () => stored() }],
});

await save(base);
const saveMs = await timeSaves();
const loadMs = [];
for (let load = 0; load < loads; load++) {
  const started = performance.now();
  const connection = await hocuspocus.openDirectConnection(ID);
  loadMs.push(performance.now() - started);
  await connection.disconnect();
  while (hocuspocus.documents.size > 0) await new Promise((resolve) => setImmediate(resolve));
}
await close();
console.log(JSON.stringify({ saveMs, loadMs }));
process.exit(0);

async function timeSaves() {
  const connection = await hocuspocus.openDirectConnection(ID);
  const started = performance.now();
  for (const edit of edits) await saveThrough(connection, edit);
  const ms = performance.now() - started;
  await connection.disconnect();
  while (hocuspocus.documents.size > 0) await new Promise((resolve) => setImmediate(resolve));
  return ms;
}

async function save(update) {
  const connection = await hocuspocus.openDirectConnection(ID);
  await saveThrough(connection, update);
  await connection.disconnect();
}

async function saveThrough(connection, edit) {
  const done = new Promise((resolve) => {
    stored = resolve;
  });
  await connection.transact((doc) => Y.applyUpdate(doc, Buffer.from(edit, "base64")));
  await done;
}

async function open() {
  if (whose === "sqlite") {
    // Everything from there: two copies of Yjs in one process do not understand each other.
    const require = createRequire(join(peers, "index.js"));
    const { SQLite } = require("@hocuspocus/extension-sqlite");
    const { Hocuspocus } = require("@hocuspocus/server");
    const extension = new SQLite({ database: join(folder, "db.sqlite") });
    return { Y: require("yjs"), Hocuspocus, extension, close: async () => extension.db?.close() };
  }
  const { hocuspocusPersistence } = await import("@coppice/hocuspocus");
  const { Hocuspocus } = await import("@hocuspocus/server");
  const { openCoppice } = await import("./stores.mjs");
  const storage = await openCoppice(join(folder, "store"));
  return {
    Y: await import("yjs"),
    Hocuspocus,
    extension: hocuspocusPersistence(storage),
    close: () => storage.close(),
  };
}
