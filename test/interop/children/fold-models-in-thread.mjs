// As fold-in-thread, for the models of Automerge and Loro. Runs against what was built. Prints one JSON line.
import * as Automerge from "@automerge/automerge";
import { automerge } from "@coppice/automerge";
import { loro } from "@coppice/loro";
import { DocumentStorage, memoryBackend, never, systemEnv } from "coppice";

const KINDS = {
  automerge: {
    model: automerge(),
    write: (doc, i) =>
      Automerge.change(doc, (draft) => Object.assign(draft, { [`key${i % 50}`]: `value ${i}` })),
    show: (doc) => JSON.stringify(Object.entries(doc).sort()),
  },
  loro: {
    model: loro(),
    write: (doc, i) => doc.getMap("map").set(`key${i % 50}`, `value ${i}`),
    show: (doc) => JSON.stringify(Object.entries(doc.getMap("map").toJSON()).sort()),
  },
};

const { model, write, show } = KINDS[process.argv[2]];
const env = systemEnv();
let threads = 0;
let onMain = 0;
const watched = {
  ...model,
  fold: (snapshot, events) => {
    // Small folds stay here.
    if (events.length > 100) onMain++;
    return model.fold(snapshot, events);
  },
};
const thread = (source) => {
  threads++;
  return env.thread(source);
};
const storage = await DocumentStorage.open({
  backend: memoryBackend(),
  models: [watched],
  snapshotPolicy: never,
  env: { ...env, thread },
});
const handle = await storage.open("d");
for (let i = 0; i < 2000; i++) {
  handle.change((doc) => write(doc, i));
  if (i % 2 === 0) await handle.save();
}
await handle.save();
const { outcome } = await storage.compact("d");
const loaded = await storage.load("d");
const same = show(loaded.doc) === show(handle.doc);
await storage.close();
console.log(JSON.stringify({ outcome, same, threads, onMain }));
