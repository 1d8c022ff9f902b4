/** A check, and a copy, where the backend itself cannot read some keys: it takes everything else, from both ends. */

import {
  type BackendFactory,
  CoppiceError,
  DocumentStorage,
  type Key,
  keyName,
  memoryBackend,
  never,
  systemEnv,
} from "coppice";
import { describe, expect, test } from "vitest";
import { nameSet, naming } from "../../../../test/support/oracle-model.js";

/** Reading any of these keys is `CORRUPT`, alone or in a page. */
function damagedAt(inner: BackendFactory, bad: (key: Key) => boolean): BackendFactory {
  const refuse = (key: Key) => {
    if (bad(key)) throw new CoppiceError("CORRUPT", `the block of ${keyName(key)} does not check`);
  };
  return {
    name: inner.name,
    async open(env) {
      const backend = await inner.open(env);
      return {
        traits: backend.traits,
        commit: (batch) => backend.commit(batch),
        reclaim: () => backend.reclaim(),
        close: () => backend.close(),
        get: async (key) => {
          refuse(key);
          return backend.get(key);
        },
        async *scan(range, options) {
          for await (const page of backend.scan(range, options)) {
            for (const { key } of page) refuse(key);
            yield page;
          }
        },
      };
    },
  };
}

async function filled(): Promise<BackendFactory> {
  const backend = memoryBackend();
  const storage = await DocumentStorage.open({ backend, models: [nameSet()], snapshotPolicy: never });
  for (const id of ["a", "b", "c", "d", "e"]) {
    for (let n = 0; n < 6; n++) await storage.append(id, [naming(`${id}${n}`)]);
  }
  await storage.close();
  return backend;
}

function check(backend: BackendFactory, repair = false, id?: string) {
  return DocumentStorage.open({ backend, models: [nameSet()], snapshotPolicy: never }).then(
    async (storage) => {
      const report = await storage.check({ repair, ...(id === undefined ? {} : { id }) });
      await storage.close();
      return report;
    },
  );
}

describe("a backend that cannot read", () => {
  test("[LB8] batches of one document are told, and all others are checked", async () => {
    const inner = await filled();
    const report = await check(
      damagedAt(inner, ([space, id, seq]) => space === "events" && id === "c" && (seq === 2 || seq === 3)),
    );
    expect(report).toMatchObject({ documents: 5, events: 28, clean: false });
    expect(report.problems).toMatchObject([{ id: "c", code: "unreadable", repaired: false }]);
    expect(report.problems[0]!.message).toContain("from clock 1 to clock 4 of its log");
    expect((await check(inner)).clean).toBe(true);
  });

  test("[LB8] documents that cannot be listed are found by their events, and named", async () => {
    const inner = await filled();
    const report = await check(
      damagedAt(inner, ([space, id]) => space === "meta" && (id === "b" || id === "d")),
    );
    expect(report.documents).toBe(5);
    const unreadable = report.problems.map(({ id, code }) => `${id} ${code}`);
    expect(unreadable).toEqual([" unreadable", "b unreadable", "d unreadable"]);
    expect(report.problems[0]!.message).toContain('from ["meta","a"] to ["meta","e"]');
  });

  test("[LB8] a repair leaves alone what cannot be read", async () => {
    const inner = await filled();
    const report = await check(
      damagedAt(inner, ([space, id]) => space === "events" && id === "c"),
      true,
    );
    // Documents behind it that have lost their meta would be known by their events alone.
    expect(report.problems).toMatchObject([
      { id: "c", code: "unreadable", repaired: false },
      { id: "", code: "unreadable", repaired: false },
    ]);
    expect(report.problems[1]!.message).toContain('from ["events","b"]');
    expect((await check(inner)).clean).toBe(true);
  });

  test("[LB8] any other failure of the backend ends the check", async () => {
    const inner = await filled();
    const failing: BackendFactory = {
      name: "failing",
      async open(env) {
        const backend = await inner.open(env);
        return {
          traits: backend.traits,
          get: (key) => backend.get(key),
          commit: (batch) => backend.commit(batch),
          reclaim: () => backend.reclaim(),
          close: () => backend.close(),
          async *scan() {
            yield await Promise.reject(new CoppiceError("UNAVAILABLE", "the disk is away"));
          },
        };
      },
    };
    await expect(check(failing)).rejects.toMatchObject({ code: "UNAVAILABLE" });
  });

  test("[LB8] where records of erased ids cannot be read, that is told, and all else is checked and repaired", async () => {
    const inner = await filled();
    const storage = await DocumentStorage.open({
      backend: inner,
      models: [nameSet()],
      snapshotPolicy: never,
    });
    await storage.erase("d");
    await storage.close();
    const backend = damagedAt(inner, ([space, id, seq]) => space === "erased" || (id === "c" && seq === 2));
    for (const repair of [false, true]) {
      const report = await check(backend, repair);
      expect(report).toMatchObject({ documents: 4, clean: false });
      expect(report.problems).toMatchObject([
        { id: "c", code: "unreadable", repaired: false },
        { id: "", code: "unreadable", message: expect.stringContaining("erased ids"), repaired: false },
      ]);
    }
    const one = await check(backend, false, "d");
    expect(one.problems).toMatchObject([{ id: "d", code: "unreadable" }]);
  });

  test("[MV33] a copy takes every document around what cannot be read, and names what it could not", async () => {
    const inner = await filled();
    const options = { models: [nameSet()], snapshotPolicy: never } as const;
    const storage = await DocumentStorage.open({ backend: inner, ...options });
    await storage.erase("e");
    await storage.close();
    const looked = await inner.open(systemEnv());
    const erased: string[] = [];
    for await (const page of looked.scan({ space: "erased" }))
      for (const { key } of page) erased.push(keyName(key));
    await looked.close();
    for (const [bad, copied, failures] of [
      [([space, id]: Key) => space === "meta" && id === "c", 3, [""]],
      [([space, id]: Key) => space === "events" && id === "c", 3, ["c"]],
      [(key: Key) => erased.includes(keyName(key)), 4, [""]],
    ] as const) {
      const source = await DocumentStorage.open({ backend: damagedAt(inner, bad), ...options });
      const target = await DocumentStorage.open({ backend: memoryBackend(), ...options });
      const result = await source.copyTo(target);
      expect(result).toMatchObject({ copied, stopped: undefined });
      expect(result.failures.map(({ id, error }) => [id, error.code])).toEqual(
        failures.map((id) => [id, "CORRUPT"]),
      );
      expect((await target.check()).problems).toEqual([]);
      await source.close();
      await target.close();
    }
  });
});
