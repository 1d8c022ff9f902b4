import { DocumentStorage, memoryBackend, never, type StorageOptions } from "coppice";
import { describe, expect, test } from "vitest";
import { add, nameSet, naming } from "../../../../test/support/oracle-model.js";

const models = [nameSet()] as const;
type Storage = DocumentStorage<typeof models>;
const open = (options: Partial<StorageOptions<typeof models>> = {}): Promise<Storage> =>
  DocumentStorage.open({ backend: memoryBackend(), models, snapshotPolicy: never, ...options });

describe("waiting for what others append", () => {
  test("[ST46] waitDurable resolves when the log has reached the clock, whoever appends", async () => {
    const storage = await open();
    const handle = await storage.open("d");
    const reached: number[] = [];
    const waits = [1, 3].map((clock) => handle.waitDurable(clock).then(() => reached.push(clock)));
    await storage.append("d", [naming("a")]);
    await waits[0];
    expect(reached).toEqual([1]);
    handle.change(add("b"));
    handle.change(add("c"));
    await handle.save();
    await waits[1];
    await handle.waitDurable(2);
    const stop = new AbortController();
    const never = handle.waitDurable(99, { signal: stop.signal });
    stop.abort(new Error("enough"));
    await expect(never).rejects.toThrow("enough");
    await storage.close();
  });

  test("[ST46] waitDurable ends with CLOSED when the handle or the storage closes first", async () => {
    const storage = await open();
    const [first, second] = [await storage.open("d"), await storage.open("d")];
    const waits = [first.waitDurable(9), second.waitDurable(9)].map((wait) =>
      wait.catch((error) => error.code),
    );
    await first.close();
    await expect(first.waitDurable(9)).rejects.toMatchObject({ code: "CLOSED" });
    await storage.close();
    expect(await Promise.all(waits)).toEqual(["CLOSED", "CLOSED"]);
  });

  test("[ST46] waitDurable also learns from a refresh what another storage appended", async () => {
    const backend = memoryBackend({ shared: true });
    const [here, there] = [await open({ backend }), await open({ backend })];
    const handle = await here.open("d");
    const waiting = handle.waitDurable(1);
    await there.append("d", [naming("theirs")]);
    await handle.refresh();
    await waiting;
    await here.close();
    await there.close();
  });

  test.each(["delete", "erase"] as const)("[ST46] waitDurable ends with DELETED by %s", async (remove) => {
    const storage = await open();
    const ended = { code: "DELETED", details: { id: "d" } };
    const [handle, other] = [await storage.open("d"), await storage.open("other")];
    const waiting = expect(handle.waitDurable(1)).rejects.toMatchObject(ended);
    const stop = new AbortController();
    const left = other.waitDurable(1, { signal: stop.signal });
    await storage[remove]("d");
    await waiting;
    await expect(handle.waitDurable(1)).rejects.toMatchObject(ended);
    // What has the id now is another document: its clocks say nothing of this one.
    const anew = await storage.open("d", { recreate: true });
    const waitingAnew = anew.waitDurable(anew.clock + 1);
    await storage[remove]("nothing");
    await storage.append("d", [naming("a")]);
    await waitingAnew;
    await expect(handle.waitDurable(9)).rejects.toMatchObject(ended);
    // Also those that it has come to already.
    expect(anew.durableClock).toBeGreaterThan(0);
    await expect(handle.waitDurable(anew.durableClock)).rejects.toMatchObject(ended);
    expect(handle.durableClock).toBe(0);
    stop.abort(new Error("enough"));
    await expect(left).rejects.toThrow("enough");
    await storage.close();
  });

  test("[ST46] waitDurable ends with DELETED by a copy of a deletion, and of another document", async () => {
    const [from, to] = [await open(), await open()];
    for (const id of ["deleted", "replaced", "longer"]) await from.append(id, [naming("a")]);
    await from.copyTo(to);
    const wait = async (id: string) => (await to.load(id))!.waitDurable(2).catch((error) => error.code);
    const [deleted, replaced, longer] = ["deleted", "replaced", "longer"].map(wait);
    await from.delete("deleted");
    await from.delete("replaced");
    const anew = await from.open("replaced", { recreate: true });
    anew.change(add("b"));
    await anew.save();
    await from.append("longer", [naming("b")]);
    await from.copyTo(to, { replace: true });
    expect(await Promise.all([deleted, replaced, longer])).toEqual(["DELETED", "DELETED", undefined]);
    await from.close();
    await to.close();
  });
});
