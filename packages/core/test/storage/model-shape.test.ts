/** What lacks a member of a model is refused when a storage is opened: later it would be damage, or a riddle. */

import { type AnyModel, DocumentStorage, memoryBackend } from "coppice";
import { expect, test } from "vitest";
import { growSet } from "./check-workload.js";

const METHODS = [
  "create",
  "restore",
  "apply",
  "change",
  "track",
  "snapshot",
  "version",
  "peerVersion",
  "fold",
];
const OPTIONAL = ["ready", "dispose", "check", "links", "holds", "frontierSize", "diff", "covers"];
const NAME = "name must be a string of the form [a-z][a-z0-9-]*, at most 32 characters, and is";
const FORMAT = "stateFormat must be a whole number from 0, and is";
const FORMATS = "stateFormats must be a list of whole numbers from 0, stateFormat (1) among them";

async function refusal(change: object, at = 0): Promise<unknown> {
  const model = { ...growSet(), ...change } as AnyModel;
  const models = [growSet({ name: "other" }), growSet({ name: "third" })].slice(0, at);
  return DocumentStorage.open({ backend: memoryBackend(), models: [...models, model] }).then(
    async (storage) => storage.close(),
    (error: unknown) => error,
  );
}

test("[ST101] a model that lacks a member, or has one of another kind, is refused, with its place and the member", async () => {
  const cases: [object, string][] = [
    ...METHODS.map((name): [object, string] => [{ [name]: undefined }, `${name} must be a function`]),
    ...OPTIONAL.map((name): [object, string] => [{ [name]: true }, `${name} must be a function, or absent`]),
    [{ name: undefined }, `${NAME} undefined`],
    [{ name: "Notes" }, `${NAME} "Notes"`],
    [{ stateFormat: undefined }, `${FORMAT} undefined`],
    [{ stateFormat: "1" }, `${FORMAT} "1"`],
    [{ stateFormat: -1 }, `${FORMAT} -1`],
    [{ stateFormats: 1 }, FORMATS],
    [{ stateFormats: ["1"] }, FORMATS],
    [{ stateFormats: [2] }, FORMATS],
    [{ codec: undefined }, "codec.encode must be a function"],
    [{ codec: { encode: () => [] } }, "codec.decode must be a function"],
    [{ codec: { ...growSet().codec, size: 1 } }, "codec.size must be a function"],
    [{ worker: "./model.js" }, "worker.module must be a string"],
    [{ worker: { module: "./model.js", export: growSet } }, "worker.export must be a string"],
  ];
  for (const [change, message] of cases) {
    for (const at of [0, 2]) {
      const expected = new TypeError(`models[${at}] is no model: ${message}`);
      expect(await refusal(change, at)).toEqual(expected);
    }
  }
  const optional = Object.fromEntries(
    [...OPTIONAL, "stateFormats", "worker"].map((name) => [name, undefined]),
  );
  expect(await refusal(optional)).toBeUndefined();
});

test("[ST101] members may be those of a class, and a second model of one name is told by its place", async () => {
  const plain = growSet();
  class Notes {
    name = "notes";
    stateFormat = 0;
    codec = plain.codec;
    create = plain.create;
    restore(bytes: Uint8Array) {
      return plain.restore(bytes);
    }
  }
  const { name: _name, stateFormat: _format, restore: _restore, ...rest } = plain;
  const notes = Object.assign(new Notes(), rest) as unknown as AnyModel;
  const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [plain, notes] });
  expect(storage.models).toEqual(["growset", "notes"]);
  await storage.close();
  expect(await refusal({ name: "third" }, 2)).toEqual(
    new TypeError("models need different names: models[2] is a second third"),
  );
});
