// Documents that are written while the wall clock is wrong: a machine without a battery may start before 1970.

import { DocumentStorage, everyEvents, memoryBackend } from "coppice";
import { simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { add, nameSet, naming } from "../../../../test/support/oracle-model.js";

for (const wrong of [-5, -1e13, 0.5, Number.NaN]) {
  test(`[ST81] what is written when the wall clock says ${wrong} can be read, then and later`, async () => {
    const env = simulatedEnv(1, { autoAdvance: true });
    const { now } = env;
    env.now = () => wrong;
    const storage = await DocumentStorage.open({
      backend: memoryBackend(),
      models: [nameSet()],
      env,
      history: "archive",
      snapshotPolicy: everyEvents(3),
      limits: { groupOperationsMax: 1 },
    });
    const commitId = storage.newCommitId();
    for (const duplicate of [false, true]) {
      expect(await storage.append("d", [naming("a")], { commitId })).toMatchObject({ clock: 1, duplicate });
    }
    const handle = await storage.open("d");
    for (const name of ["b", "c", "d", "e"]) {
      handle.change(add(name));
      await handle.save();
    }
    expect(await storage.tag("d", "early")).toMatchObject({ time: 1 });
    expect(await storage.compact("d")).toMatchObject({ outcome: "compacted" });
    await storage.append("d", [naming("f")]);
    await storage.fork("d", "fork");
    await storage.import(storage.export("d"), { id: "import" });
    await storage.delete("import");
    await storage.import(storage.export("d"), { id: "import", recreate: true });
    await storage.delete("fork");
    await storage.erase("fork");
    expect(await storage.append("d", [naming("a")], { commitId })).toMatchObject({ duplicate: true });
    env.now = now;
    expect(env.now()).toBeGreaterThan(0);
    await storage.append("d", [naming("g")], { commitId: storage.newCommitId() });
    for (const [id, names] of [
      ["d", "abcdefg"],
      ["import", "abcdef"],
    ] as const) {
      expect([...(await storage.load(id))!.doc.names.keys()].sort().join("")).toBe(names);
      expect(await storage.info(id)).toMatchObject({ created: 1 });
    }
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });
}
