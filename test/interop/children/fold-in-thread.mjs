// Runs against what was built, because a thread imports files of `dist`. Prints one JSON line.
import { yjs } from "@coppice/yjs";
import { DocumentStorage, memoryBackend, never, systemEnv } from "coppice";
import * as Y from "yjs";

const [, , how] = process.argv;
const env = systemEnv();
let threads = 0;
const model = yjs();
const onMain = [];
const watched = {
  ...model,
  fold: (snapshot, events) => {
    onMain.push(events.length);
    return model.fold(snapshot, events);
  },
  ...(how === "no-module" ? { worker: { ...model.worker, module: "file:///nowhere/thread.js" } } : {}),
};
const storage = await DocumentStorage.open({
  backend: memoryBackend(),
  models: [watched],
  snapshotPolicy: never,
  env: {
    ...env,
    thread: (source) => {
      threads++;
      return env.thread(source);
    },
  },
});
const doc = new Y.Doc();
const events = [];
doc.on("update", (update) => events.push(update));
for (let i = 0; i < 20_000; i++) doc.getText("t").insert(Math.floor(i / 2), String(i % 10));
for (let i = 0; i < events.length; i += 1000) await storage.append("d", events.slice(i, i + 1000));
const { outcome } = await storage.compact("d");
const loaded = await storage.load("d");
const same = loaded.doc.getText("t").toString() === doc.getText("t").toString();
await storage.close();
console.log(JSON.stringify({ outcome, same, threads, onMain: onMain.length }));
