/**
 * Automerge and Loro: what storage costs beside the bare library when a document is loaded, and automerge-repo's
 * saves and loads on our adapters beside its own file adapter.
 *
 * The history is the recording, typed through each library, one change for each transaction; fewer of them than for
 * Yjs, since Automerge takes longer. Saves go through automerge-repo's own storage subsystem, which decides what is
 * saved and when it compacts; each save waits for the one before it in its document. It saves a document whole, each
 * time, while that takes less than 1 KiB: the text of the recording takes more, one that repeats itself takes less.
 *
 * Invariants: what was loaded is compared with what was typed, outside of the timed part; a load opens nothing but
 * what it must: the file adapter keeps a cache in memory, so each of its loads gets a new one.
 */
import * as Automerge from "@automerge/automerge";
import { generateAutomergeUrl, parseAutomergeUrl, Repo } from "@automerge/automerge-repo";
import { NodeFSStorageAdapter } from "@automerge/automerge-repo-storage-nodefs";
import { AutomergeRepoDocuments, AutomergeRepoStorage, automerge } from "@coppice/automerge";
import { levelBackend } from "@coppice/level";
import { loro } from "@coppice/loro";
import { concatBytes, DocumentStorage, never } from "coppice";
import { LoroDoc } from "loro-crdt";
import { loadTable } from "./load.mjs";
import { ratios, runRounds, summary, timed } from "./rounds.mjs";

const ID = "paper";
const LOAD_RATIO_MAX = 1.15;
/** As for Yjs: what a load costs whatever the size of the document. */
const LOAD_EXTRA_MS = 2;
const TAIL = 500;
const WIDTH = 64;

export const models = {
  name: "models",
  about: "Automerge and Loro: loads, and automerge-repo's saves on three adapters",
  run: measure,
};

async function measure({ rounds, quick, scratch, trace, note }) {
  const edits = trace.edits.slice(0, quick ? 2000 : 30_000);
  note(`  typing ${edits.length} changes`);
  const histories = [typeAutomerge(edits), typeLoro(edits)];
  const tables = [];
  const targets = [];
  const all = {};
  for (const history of histories) {
    const { results, name } = await loads(history, rounds, scratch, note);
    all[`load ${name}`] = results;
    tables.push(
      loadTable(
        `Cold load, ${name}: ${edits.length} changes, ${TAIL} after the snapshot`,
        results,
        "from memory",
      ),
    );
    targets.push(loadTarget(name, results));
  }
  note("  loads of automerge-repo");
  const repoLoads = await measureRepoLoads(histories[0], rounds, scratch, note);
  all["load automerge-repo"] = repoLoads;
  tables.push(loadTable("Cold load by automerge-repo's subsystem", repoLoads, "its file adapter"));
  const recorded = { what: "recorded text", text: histories[0].text.slice(0, 4000) };
  const repeating = { what: "text that repeats itself", text: "0123456789 abcdefgh ".repeat(200) };
  const [many, few] = quick ? [40, 3] : [300, 20];
  for (const { what, text, documentCount, each } of [
    { ...recorded, documentCount: 1, each: many },
    { ...recorded, documentCount: WIDTH, each: few },
    { ...repeating, documentCount: 1, each: many },
    { ...repeating, documentCount: WIDTH, each: Math.ceil(few / 4) },
  ]) {
    note(`  saves of ${documentCount} documents, ${what}`);
    const saves = await measureSaves(documentCount, each, text, rounds, scratch, note);
    all[`save ${documentCount}, ${what}`] = saves;
    tables.push(saveTable(documentCount, each, what, saves));
  }
  return { rounds: all, tables, targets };
}

/** Changes, the document as a snapshot without the last ones, how to build it, and what it shows. */
function typeAutomerge(edits) {
  let doc = Automerge.from({ text: "" }, "aa".repeat(16));
  let base;
  edits.forEach((patches, index) => {
    if (index === edits.length - TAIL) base = Automerge.save(doc);
    doc = Automerge.change(doc, { time: 0 }, (draft) => {
      for (const [at, deleted, inserted] of patches) Automerge.splice(draft, ["text"], at, deleted, inserted);
    });
  });
  const tail = Automerge.getAllChanges(doc).slice(-TAIL);
  return {
    name: "Automerge",
    model: automerge(),
    base,
    before: Automerge.getAllChanges(doc).slice(0, -TAIL),
    tail,
    doc,
    text: doc.text,
    build: () => Automerge.loadIncremental(Automerge.load(base), concatBytes(tail)),
    textOf: (loaded) => loaded.text,
    free: (loaded) => Automerge.free(loaded),
  };
}

function typeLoro(edits) {
  const doc = new LoroDoc();
  doc.setPeerId("7");
  const events = [];
  doc.subscribeLocalUpdates((update) => events.push(update));
  const text = doc.getText("text");
  let base;
  edits.forEach((patches, index) => {
    if (index === edits.length - TAIL) base = doc.export({ mode: "snapshot" });
    for (const [at, deleted, inserted] of patches) text.splice(at, deleted, inserted);
    doc.commit();
  });
  const tail = events.slice(-TAIL);
  const build = () => {
    const loaded = new LoroDoc();
    loaded.import(base);
    loaded.importBatch(tail);
    return loaded;
  };
  return {
    name: "Loro",
    model: loro(),
    before: events.slice(0, -TAIL),
    tail,
    text: text.toString(),
    build,
    textOf: (loaded) => loaded.getText("text").toString(),
    free: (loaded) => loaded.free(),
  };
}

async function loads({ name, model, before, tail, text, build, textOf, free }, rounds, scratch, note) {
  const storage = await DocumentStorage.open({
    backend: levelBackend(scratch.fresh()),
    models: [model],
    snapshotPolicy: never,
  });
  for (let at = 0; at < before.length; at += 5000) await storage.append(ID, before.slice(at, at + 5000));
  await storage.compact(ID);
  await storage.append(ID, tail);
  const check = (loaded, side) => {
    if (textOf(loaded) !== text) throw new Error(`${side}: the text differs from what was typed`);
  };
  const sides = [
    {
      name: "coppice",
      run: async () => {
        const { ms, value: handle } = await timed(() => storage.load(ID));
        check(handle.doc, "coppice");
        await handle.close();
        return ms;
      },
    },
    {
      name: "from memory",
      run: async () => {
        const { ms, value } = await timed(build);
        check(value, "from memory");
        free(value);
        return ms;
      },
    },
  ];
  const results = await runRounds(rounds, sides, note, 5);
  await storage.close();
  return { name, results };
}

function loadTarget(name, results) {
  const adjusted = results.coppice.map((ms) => ms - LOAD_EXTRA_MS);
  const measured = ratios(adjusted, results["from memory"]);
  return {
    what: `load of a document of ${name} less ${LOAD_EXTRA_MS} ms, against the bare library with the bytes in memory`,
    wanted: `≤ ${LOAD_RATIO_MAX} ×`,
    measured,
    unit: "ratio",
    met: measured.median <= LOAD_RATIO_MAX,
  };
}

/** Each opens a store at a place: with `fresh`, as after a restart. */
const ADAPTERS = [
  {
    name: "its file adapter",
    syncs: "never",
    open: async (location) => ({ adapter: new NodeFSStorageAdapter(location), close: async () => {} }),
  },
  {
    name: "AutomergeRepoStorage",
    syncs: "yes, before each acknowledgement",
    open: async (location) => {
      const adapter = await AutomergeRepoStorage.open(levelBackend(location));
      return { adapter, close: () => adapter.close() };
    },
  },
  {
    name: "AutomergeRepoDocuments",
    syncs: "yes, before each acknowledgement",
    open: async (location) => {
      const backend = levelBackend(`${location}-documents`);
      const storage = await DocumentStorage.open({ backend, models: [automerge()] });
      const others = await AutomergeRepoStorage.open(levelBackend(`${location}-others`));
      const adapter = new AutomergeRepoDocuments(storage, others);
      return { adapter, close: () => adapter.close() };
    },
  },
];

const subsystemOf = (adapter) => new Repo({ storage: adapter }).storageSubsystem;
const freshId = () => parseAutomergeUrl(generateAutomergeUrl()).documentId;

async function measureRepoLoads({ base, tail, text }, rounds, scratch, note) {
  const id = freshId();
  const sides = [];
  const closers = [];
  for (const { name, open } of ADAPTERS) {
    const location = scratch.fresh();
    const opened = await open(location);
    closers.push(opened.close);
    await opened.adapter.save([id, "snapshot", "base"], base);
    for (const [index, change] of tail.entries()) {
      await opened.adapter.save([id, "incremental", String(index).padStart(64, "0")], change);
    }
    const again =
      name === "its file adapter" ? async () => (await open(location)).adapter : async () => opened.adapter;
    sides.push({
      name,
      run: async () => {
        const storage = subsystemOf(await again());
        const { ms, value: doc } = await timed(() => storage.loadDoc(id));
        if (doc.text !== text) throw new Error(`${name}: the text differs from what was typed`);
        Automerge.free(doc);
        return ms;
      },
    });
  }
  const results = await runRounds(rounds, sides, note, 3);
  for (const close of closers) await close();
  return results;
}

async function measureSaves(documentCount, each, text, rounds, scratch, note) {
  const sides = ADAPTERS.map(({ name, open }) => ({
    name,
    run: async (round) => {
      const { adapter, close } = await open(scratch.fresh());
      const storage = subsystemOf(adapter);
      const count = round === 0 ? Math.ceil(each / 5) : each;
      const documents = Array.from({ length: documentCount }, () => ({
        id: freshId(),
        doc: Automerge.from({ text }),
      }));
      const first = await timed(() => Promise.all(documents.map(({ id, doc }) => storage.saveDoc(id, doc))));
      const { ms } = await timed(() => Promise.all(documents.map((one) => typeAndSave(storage, one, count))));
      await close();
      return { firstMs: first.ms / documentCount, rate: (documentCount * count) / (ms / 1000) };
    },
  }));
  return runRounds(rounds, sides, note);
}

/** Keystrokes into a document, each saved before the next. */
async function typeAndSave(storage, { id, doc }, count) {
  let next = doc;
  for (let i = 0; i < count; i++) {
    next = Automerge.change(next, (draft) => Automerge.splice(draft, ["text"], i, 0, "x"));
    await storage.saveDoc(id, next);
  }
  Automerge.free(next);
}

function saveTable(documentCount, each, what, results) {
  const rates = (name) => results[name].map(({ rate }) => rate);
  return {
    title: `Saves by automerge-repo's subsystem: ${each} into each of ${documentCount} documents, ${what}`,
    note: "One keystroke a save. Making the change and its bytes is part of it, the same on all sides. The first save of a document, of all its text in one change, is told apart.",
    columns: [
      ["side", "text"],
      ["syncs", "text"],
      ["first", "msSpread", "first save ms"],
      ["rate", "rate", "saves/s"],
      ["ratio", "ratio", "of its file adapter"],
    ],
    rows: ADAPTERS.map(({ name, syncs }) => ({
      side: name,
      syncs,
      first: summary(results[name].map(({ firstMs }) => firstMs)),
      rate: summary(rates(name)),
      ratio: name === ADAPTERS[0].name ? undefined : ratios(rates(name), rates(ADAPTERS[0].name)),
    })),
  };
}
