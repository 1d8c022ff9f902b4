// What calls say of an argument that is another thing than they take, or missing.
import { DocumentStorage, memoryBackend } from "coppice";
import { backendCases, runCases } from "coppice/conformance";
import { findOwner, offerControl } from "coppice/control";
import { expect, test } from "vitest";
import { nameSet } from "../../../../test/support/oracle-model.js";

test("[ST103] a call with another thing than it takes, or nothing, names it and says what it must be", async () => {
  const backend = memoryBackend();
  const storage = await DocumentStorage.open({ backend, models: [nameSet()] });
  const handle = await storage.open("d");
  const loosely = (call: unknown) => call as (...given: readonly unknown[]) => unknown;
  const [offer, find, run] = [offerControl, findOwner, runCases].map(loosely) as [never, never, never];
  const call = (fn: unknown, ...given: readonly unknown[]) => loosely(fn)(...given);
  const open = (more: object) => DocumentStorage.open({ backend, models: [nameSet()], ...more });
  const cases: readonly [what: string, given: () => unknown, says: string][] = [
    ["limits of null", () => open({ limits: null }), "limits must be an object, as in {"],
    ["limits of 5", () => open({ limits: 5 }), "limits must be an object, as in {"],
    ["env of 5", () => open({ env: 5 }), "env must have a function now, as systemEnv() has"],
    ["half an env", () => open({ env: { now: Date.now } }), "env must have a function elapsed"],
    ["offerControl()", () => call(offer), "offerControl wants an open storage: await DocumentStorage.open({"],
    ["of a backend", () => call(offer, backend, "./data"), "offerControl wants an open storage"],
    ["offerControl(s)", () => call(offer, storage), "offerControl wants the directory of the store"],
    ["findOwner()", () => call(find), "findOwner wants the directory of the store, as in"],
    ["findOwner('')", () => call(find, ""), "findOwner wants the directory of the store, as in"],
    ["change()", () => call(handle.change.bind(handle)), "change takes a function that edits the document"],
    ["copyTo()", () => call(storage.copyTo.bind(storage)), "copyTo wants an open storage: await"],
    ["to a backend", () => storage.copyTo(backend as never), "copyTo wants an open storage: await"],
    ["to itself", () => storage.copyTo(storage), "copyTo wants another storage: the target is the source"],
    ["to one of others", () => storage.copyTo({ append() {} } as never), "of this copy of the package"],
    ["runCases()", () => call(run), "runCases wants cases, as in runCases(backendCases, subject)"],
    ["without a subject", () => call(run, backendCases), "these cases want a subject, and got undefined"],
  ];
  for (const [what, given, says] of cases) {
    const error = await new Promise((resolve) => resolve(given())).catch((thrown: unknown) => thrown);
    expect([what, error instanceof TypeError, String(error)]).toEqual([
      what,
      true,
      expect.stringContaining(says),
    ]);
  }
  await storage.close();
});

test("[ST103] control in a directory that there is not is UNAVAILABLE", async () => {
  const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [nameSet()] });
  await expect(offerControl(storage, "./there-is-none")).rejects.toMatchObject({
    code: "UNAVAILABLE",
    details: { location: "./there-is-none" },
  });
  expect(await findOwner("./there-is-none")).toBeUndefined();
  await storage.close();
});
