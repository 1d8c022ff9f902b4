import { test } from "vitest";
import { DocumentStorage, never } from "coppice";
import { simulatedBackend, simulatedEnv } from "coppice/testing";
import { add, type NameSet, nameSet } from "../support/oracle-model.js";
test("x", async () => {
  const backend = simulatedBackend({});
  const storage = await DocumentStorage.open({ backend, models: [nameSet()], env: simulatedEnv(1, { autoAdvance: true }), snapshotPolicy: never });
  const h = await storage.open<NameSet>("b");
  backend.failNext("commit", "unknown-applied");
  h.change(add("b1"));
  const s1 = h.save();
  h.change(add("b2"));
  const s2 = h.save();
  console.log(await Promise.allSettled([s1, s2]));
  console.log(await storage.recover());
  console.log(await h.save(), h.clock, backend.keys().join("\n"));
});
