import { writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import * as Automerge from "@automerge/automerge";
import { automerge } from "@coppice/automerge";
import { levelBackend } from "@coppice/level";
import { loro } from "@coppice/loro";
import { CoppiceError, DocumentStorage, type Model, never } from "coppice";
import { afterAll, expect, test } from "vitest";
import { nameSet, naming } from "../../../test/support/oracle-model.js";
import { describeError } from "../src/errors.js";
import { ifInstalled, loadModels } from "../src/packages.js";
import {
  cleanUp,
  coppice,
  damage,
  keystrokes,
  makeStore,
  openStore,
  type TestStore,
  temporaryDirectory,
} from "./command.js";

afterAll(cleanUp);

test("[CL22] documents of Automerge and Loro are shown, checked and compacted where these are installed", async () => {
  const store = await makeStore();
  const storage = await DocumentStorage.open({
    backend: levelBackend(store.location),
    models: [automerge<{ n: number }>(), loro()],
    snapshotPolicy: never,
  });
  const one = await storage.open("of-automerge");
  one.change((doc) => Automerge.change(doc, (draft) => Object.assign(draft, { n: 1 })));
  await one.save();
  const two = await storage.open<import("loro-crdt").LoroDoc>("of-loro", { model: "loro" });
  two.change((doc) => doc.getText("text").insert(0, "hello"));
  await two.save();
  await storage.close();
  const more = await openStore(store.location);
  await more.append("of-yjs", keystrokes("x"));
  await more.close();
  for (const [id, model] of [
    ["of-automerge", "automerge"],
    ["of-loro", "loro"],
  ] as const) {
    const info = await coppice(["info", id, "--json", "--store", store.url]);
    expect(JSON.parse(info.stdout)).toMatchObject({ model, clock: 1 });
    expect((await coppice(["compact", id, "--store", store.url])).code).toBe(0);
    // Beside one of another model, which alone would need neither.
    const both = await coppice(["compact", "of-yjs", id, "--force", "--json", "--store", store.url]);
    expect(JSON.parse(both.stdout)).toMatchObject({
      documents: [{ id: "of-yjs" }, { id, outcome: "compacted" }],
    });
  }
  expect((await coppice(["check", "--store", store.url])).code).toBe(0);
});

test("[CL22] a document whose model is not installed is an error that says what to install", async () => {
  const missing = Object.assign(new Error("Cannot find package"), { code: "ERR_MODULE_NOT_FOUND" });
  expect(await ifInstalled(() => Promise.reject(missing))).toBeUndefined();
  await expect(ifInstalled(() => Promise.reject(new TypeError("broken")))).rejects.toThrow("broken");
  const unknown = (model: string) =>
    new CoppiceError("MODEL_UNKNOWN", "no such model", { details: { model } });
  expect(describeError(unknown("loro")).hint).toContain("npm install @coppice/loro loro-crdt");
  expect(describeError(unknown("automerge")).hint).toContain("@coppice/automerge @automerge/automerge");
  expect(describeError(unknown("other")).hint).toContain("not installed here");
});

test("[CL22] check and compact say what to install, and advise no repair, for a model that is not there", async () => {
  const store = await makeStore();
  const model = { ...loro(), name: "unheard-of" };
  const storage = await DocumentStorage.open({
    backend: levelBackend(store.location),
    models: [model],
    snapshotPolicy: never,
  });
  const one = await storage.open("d");
  one.change((doc) => doc.getText("text").insert(0, "hello"));
  await one.save();
  await storage.close();
  const checked = await coppice(["check", "--store", store.url]);
  expect(checked.code).toBe(1);
  expect(checked.stdout).toContain("Its model is not installed here");
  expect(checked.stdout).not.toContain("--repair");
  const compacted = await coppice(["compact", "--all", "--store", store.url]);
  expect(compacted.code).toBe(1);
  expect(compacted.stderr).toContain("failed d: this command has no model unheard-of\n");
  expect(compacted.stderr).toContain("Its model is not installed here");
  for (const command of ["read", "show"]) {
    const { code, stderr } = await coppice([command, "d", "--store", store.url]);
    expect([code, stderr]).toEqual([
      1,
      "coppice: this command has no model unheard-of\n" +
        "Its model is not installed here; --models <file> names a module whose default export has it.\n",
    ]);
  }
});

/** Two snapshots of a model that the command does not have, and events after the older one. */
async function makeForeign(): Promise<TestStore> {
  const store = await makeStore((storage) => storage.append("of-yjs", keystrokes("x")));
  const storage = await DocumentStorage.open({
    backend: levelBackend(store.location),
    models: [nameSet()],
    snapshotPolicy: never,
  });
  for (const name of ["a", "b", "c"]) {
    await storage.append("d", [naming(`${name}1`)]);
    await storage.append("d", [naming(`${name}2`)]);
    if (name !== "c") await storage.compact("d");
  }
  await storage.close();
  return store;
}

test("[CL180] check tells nobody to remove what its repair leaves alone", async () => {
  const foreign = await makeForeign();
  await damage(foreign.location, "d", "snapshot");
  const checked = await coppice(["check", "--repair", "--store", foreign.url]);
  expect(checked.stdout).toContain("d: snapshot-damaged");
  expect(checked.stdout).not.toContain("coppice rm");
  const erased = await makeStore((storage) => storage.append("d", keystrokes("x")));
  expect((await coppice(["erase", "d", "--yes", "--store", erased.url])).code).toBe(0);
  await damage(erased.location, undefined, "erased");
  const again = await coppice(["check", "--repair", "--store", erased.url]);
  expect(again.stdout).toContain("the record of an erased id cannot be read");
  expect(again.stdout).not.toContain("coppice rm");
});

test("[CL181] check reports what it found also where a document of a model that is not there is damaged", async () => {
  const foreign = await makeForeign();
  await damage(foreign.location, "d");
  const checked = await coppice(["check", "--store", foreign.url]);
  expect([checked.code, checked.stderr]).toEqual([1, ""]);
  for (const said of ["d: model-unknown", "d: batch-damaged", "2 documents"])
    expect(checked.stdout).toContain(said);
});

/** Lines, and a document is the list of them. It imports nothing: no package is found from where it lies. */
const LINES = `
const [utf8, text] = [new TextEncoder(), new TextDecoder("utf-8", { fatal: true })];
const pack = (lines) => utf8.encode(JSON.stringify(lines));
const restore = (bytes) => ({ lines: JSON.parse(text.decode(bytes)), made: [] });
const apply = (doc, events) => {
  for (const event of events) if (!doc.lines.includes(text.decode(event))) doc.lines.push(text.decode(event));
  doc.lines.sort();
  return { doc, applied: events.length, held: [], refused: [] };
};
const snapshot = ({ lines }) => pack(lines);
const lines = () => ({
  name: "lines", stateFormat: 1,
  create: () => ({ lines: [], made: [] }),
  restore, apply, snapshot, version: snapshot, peerVersion: snapshot,
  codec: {
    size: (event) => event.length,
    encode: (events) => pack(events.map((event) => text.decode(event))),
    decode: (bytes) => restore(bytes).lines.map((line) => utf8.encode(line)),
  },
  change: (doc, fn) => (fn(doc), doc),
  track: (doc) => ({ take: () => doc.made.splice(0), pending: () => doc.made.length > 0, stop: () => {} }),
  fold: (bytes, events) => {
    const folded = snapshot(apply(bytes === undefined ? { lines: [], made: [] } : restore(bytes), events).doc);
    return { snapshot: folded, version: folded, peerVersion: folded, held: [], refused: [] };
  },
});
export default `;

async function moduleOf(name: string, exported: string): Promise<string> {
  const file = join(await temporaryDirectory(), name);
  await writeFile(file, LINES + exported);
  return file;
}

test("[CL168] documents of the user's own models are shown, compacted, checked and moved with --models", async () => {
  const models = await moduleOf("models.mjs", "lines();");
  const { default: own } = (await import(models)) as { default: Model<unknown> };
  const store = await makeStore();
  const backend = levelBackend(store.location);
  const storage = await DocumentStorage.open({ backend, models: [own], snapshotPolicy: never });
  await storage.append("list", [new TextEncoder().encode("milk"), new TextEncoder().encode("bread")]);
  await storage.close();
  const run = async (command: readonly string[], cwd: string, named: readonly string[] = []) => {
    const where = command[0] === "copy" ? [] : ["--store", store.url];
    return coppice([...command, ...where, ...named], { cwd });
  };
  const beside = dirname(models);
  const reading = [["show", "list"], ["read", "list"], ["compact", "--all"], ["check"]];
  for (const command of reading) expect(await run(command, beside), command[0]).toMatchObject({ code: 1 });
  const moving = [
    ["tag", "list", "v1"],
    ["fork", "list", "other", "--at", "1"],
    ["export", "list", "list.coppice"],
    ["import", "document", "list.coppice", "--id", "third"],
    ["copy", store.url, `file:${join(beside, "copy")}`],
  ];
  for (const command of [...reading, ...moving]) {
    const outcome = await run(command, beside, ["--models", "models.mjs"]);
    expect(outcome, command.join(" ")).toMatchObject({ code: 0 });
  }
  const { stdout } = await run(["show", "list"], beside, ["--models", models]);
  expect(stdout).toContain('"bread"');
});

test("[CL168] a module of models that is missing, broken or exports something else is told, and nothing is opened", async () => {
  const store = await makeStore();
  const missing = await coppice(["show", "d", "--store", store.url, "--models", "nowhere.mjs"]);
  expect(missing).toMatchObject({
    code: 3,
    stderr:
      "coppice: there is no file nowhere.mjs\n" +
      "As in --models models.mjs, a file with `export default [notes()]`.\n",
  });
  const neither = /neither a model nor a list of models$/;
  const called = /neither a model nor a list of models; call the function that makes it$/;
  const cases = [
    ["lines", 2, called],
    ["[lines(), lines];", 2, called],
    ["[];", 2, neither],
    ["{ models: [lines()] };", 2, neither],
    ["nothing;", 2, /models-\d\.mjs cannot be loaded: nothing is not defined$/],
    ["[;", 2, /models-\d\.mjs cannot be loaded: ./],
  ] as const;
  for (const [index, [exported, exitCode, message]] of cases.entries()) {
    const loading = loadModels(await moduleOf(`models-${index}.mjs`, exported));
    await expect(loading).rejects.toMatchObject({ exitCode, message: expect.stringMatching(message) });
  }
  const broken = await moduleOf("broken.mjs", "[;");
  expect(await coppice(["show", "d", "--store", store.url, "--models", broken])).toMatchObject({
    code: 2,
    stderr: expect.stringMatching(
      /cannot be loaded: .*\n`node .*broken\.mjs` runs it alone, and shows where\.\n$/,
    ),
  });
  const known = await loadModels(await moduleOf("models.mjs", "[lines()]"));
  expect(known.map(({ name }) => name)).toEqual(["yjs", "tree", "automerge", "loro", "lines"]);
});

test("[CL176] of a model in --models that is not whole, the member that is missing is named", async () => {
  const cases = [
    ['[{ name: "notes" }];', /cannot be used: models\[0\] is no model: stateFormat must be a whole number/],
    [
      '{ name: "notes", stateFormat: 1 };',
      /cannot be used: models\[0\] is no model: create must be a function$/,
    ],
    ["[lines(), { ...lines(), name: undefined }];", /models\[1\] is no model: name must be a string/],
    ["[lines(), { ...lines(), codec: {} }];", /models\[1\] is no model: codec\.encode must be a function$/],
    ["[lines(), lines()];", /models\[1\] is a second lines$/],
  ] as const;
  for (const [index, [exported, message]] of cases.entries()) {
    const loading = loadModels(await moduleOf(`models-${index}.mjs`, exported));
    await expect(loading).rejects.toMatchObject({ exitCode: 2, message: expect.stringMatching(message) });
  }
});

test("[CL168] COPPICE_MODELS names the module as well, and a model of one's own takes the place of the command's", async () => {
  const store = await makeStore();
  const models = await moduleOf("models.mjs", '[{ ...lines(), name: "yjs" }];');
  const { default: own } = (await import(models)) as { default: Model<unknown>[] };
  const backend = levelBackend(store.location);
  const storage = await DocumentStorage.open({ backend, models: own, snapshotPolicy: never });
  await storage.append("list", [new TextEncoder().encode("milk")]);
  await storage.close();
  const show = ["show", "list", "--store", store.url];
  expect(await coppice(show)).toMatchObject({ code: 5 });
  const outcome = await coppice(show, { env: { COPPICE_MODELS: models } });
  expect(outcome).toMatchObject({ code: 0, stdout: expect.stringContaining('"milk"') });
});
