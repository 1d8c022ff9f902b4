import * as Automerge from "@automerge/automerge";
import { automerge } from "@coppice/automerge";
import { levelBackend } from "@coppice/level";
import { loro } from "@coppice/loro";
import { CoppiceError, DocumentStorage, never } from "coppice";
import { afterAll, expect, test } from "vitest";
import { describeError } from "../src/errors.js";
import { ifInstalled } from "../src/store.js";
import { cleanUp, coppice, makeStore } from "./command.js";

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
  for (const [id, model] of [
    ["of-automerge", "automerge"],
    ["of-loro", "loro"],
  ] as const) {
    const info = await coppice(["info", id, "--json", "--store", store.url]);
    expect(JSON.parse(info.stdout)).toMatchObject({ model, clock: 1 });
    expect((await coppice(["compact", id, "--store", store.url])).code).toBe(0);
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
  expect(checked.stdout).toContain("needs a model that is not installed here");
  expect(checked.stdout).not.toContain("--repair");
  const compacted = await coppice(["compact", "--all", "--store", store.url]);
  expect(compacted.code).toBe(1);
  expect(compacted.stderr).toContain("failed d: this command has no model unheard-of\n");
  expect(compacted.stderr).toContain("needs a model that is not installed here");
  for (const command of ["read", "show"]) {
    const { code, stderr } = await coppice([command, "d", "--store", store.url]);
    expect([code, stderr]).toEqual([
      1,
      "coppice: this command has no model unheard-of\n" +
        "This document needs a model that is not installed here.\n",
    ]);
  }
});
