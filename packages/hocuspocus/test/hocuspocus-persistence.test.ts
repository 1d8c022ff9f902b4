/**
 * The extension in real Hocuspocus servers, with real providers over loopback; where Hocuspocus' own way of
 * storing loses something, the same test shows that as well.
 */
import { yjs } from "@coppice/yjs";
import { Database } from "@hocuspocus/extension-database";
import type { Extension } from "@hocuspocus/server";
import { DocumentStorage, isCoppiceError } from "coppice";
import { simulatedBackend } from "coppice/testing";
import * as encoding from "lib0/encoding";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import * as Y from "yjs";
import { type DurableMessage, hocuspocusPersistence, readDurableMessage } from "../src/index.js";
import { connect, listen, type TestClient, until } from "./rig.js";

const retries = { retryMsMin: 1, retryMsMax: 5 };

async function open(backend = simulatedBackend()) {
  const storage: DocumentStorage = await DocumentStorage.open({ backend, models: [yjs()] });
  onTestFinished(async () => {
    await storage.close();
  });
  return { storage, backend };
}

async function stored(storage: DocumentStorage, name = "notes"): Promise<string | undefined> {
  const handle = await storage.load<Y.Doc>(name);
  const text = handle?.doc.getText("body").toString();
  await handle?.close();
  return text;
}

function updateOf(text: string): Uint8Array {
  const doc = new Y.Doc();
  doc.getText("body").insert(0, text);
  return Y.encodeStateAsUpdate(doc);
}

/** The bindings that the storage keeps, whatever becomes of their documents. */
function bindingsOf(storage: DocumentStorage): ReadonlySet<unknown> {
  const bound = new Set<unknown>();
  const attach = storage.attach.bind(storage);
  vi.spyOn(storage, "attach").mockImplementation((saver) => {
    const attachment = attach(saver);
    bound.add(saver);
    const detach = attachment.detach.bind(attachment);
    const release = () => {
      bound.delete(saver);
      detach();
    };
    return Object.assign(attachment, { detach: release });
  });
  return bound;
}

describe("Hocuspocus", () => {
  test("[HP1] shows clients what is stored, and stores each update as it arrives", async () => {
    const { storage } = await open();
    await storage.append("notes", [updateOf("stored ")]);
    const server = await listen([hocuspocusPersistence(storage)], 60_000);
    const [ann, ben] = [connect(server), connect(server)];
    await until("both see what is stored", () => ann.text === "stored " && ben.text === "stored ");
    ann.type("by ann ");
    await until("ben sees it", () => ben.text.includes("by ann"));
    ben.type("by ben");
    // Long before Hocuspocus would store anything.
    await until("all of it is stored", async () => (await stored(storage)) === "stored by ann by ben");
    await until("ann sees it", () => ann.text === "stored by ann by ben");
  });

  test("[HP2] a failed write and an unload lose nothing; Hocuspocus' own way loses the document", async () => {
    const { storage, backend } = await open();
    const server = await listen([hocuspocusPersistence(storage, retries)]);
    const ann = connect(server);
    await until("synced", () => ann.provider.isSynced);
    for (let n = 0; n < 5; n++) backend.failNext("commit", n % 2 === 0 ? "unavailable" : "unknown-lost");
    ann.type("precious");
    await until("the server has it", () => ann.provider.unsyncedChanges === 0);
    ann.leave();
    await until("it is stored and unloaded", () => server.hocuspocus.documents.size === 0);
    expect(await stored(storage)).toBe("precious");

    let failures = 0;
    const rows = new Map<string, Uint8Array>();
    const database = new Database({
      fetch: async ({ documentName }) => rows.get(documentName) ?? null,
      store: async ({ documentName, state }) => {
        if (failures++ === 0) throw new Error("the database is away for a moment");
        rows.set(documentName, state);
      },
    });
    const peer = await listen([database]);
    const ben = connect(peer);
    await until("synced", () => ben.provider.isSynced);
    ben.type("precious");
    await until("the store has failed", () => failures > 0);
    expect(ben.provider.unsyncedChanges).toBe(0);
    ben.leave();
    await until("it is unloaded", () => peer.hocuspocus.documents.size === 0);
    expect(rows.size).toBe(0);
  });

  test("[HP2] a document that cannot be stored for long stays in memory, for those who come back", async () => {
    const { storage, backend } = await open();
    const server = await listen([hocuspocusPersistence(storage, retries)]);
    const ann = connect(server);
    await until("synced", () => ann.provider.isSynced);
    backend.failNext("commit", "unavailable", { sticky: true });
    ann.type("waiting ");
    await until("the server has it", () => ann.provider.unsyncedChanges === 0);
    ann.leave();
    const ben = connect(server);
    await until("ben sees it", () => ben.text === "waiting ");
    ben.type("for the store");
    await until("the server has it", () => ben.provider.unsyncedChanges === 0);
    ben.leave();
    await until("nobody is connected", () => server.hocuspocus.getConnectionsCount() === 0);
    expect(server.hocuspocus.documents.size).toBe(1);
    backend.heal();
    await until("it is unloaded", () => server.hocuspocus.documents.size === 0);
    expect(await stored(storage)).toBe("waiting for the store");
  });

  test("[HP3] a document that cannot be loaded is refused, and never stored over", async () => {
    const { storage, backend } = await open();
    await storage.append("notes", [updateOf("precious")]);
    for (const key of backend.keys().filter(([space]) => space === "events")) backend.flip(key, 30);
    const before = backend.dump();
    const errors: unknown[] = [];
    const onError = (error: unknown) => errors.push(error);
    const server = await listen([hocuspocusPersistence(storage, { ...retries, onError })]);
    const ann = connect(server);
    ann.type("over an empty document");
    await until("it was refused", () => errors.length > 0);
    expect(errors[0]).toMatchObject({ code: "CORRUPT" });
    ann.leave();
    expect(server.hocuspocus.documents.size).toBe(0);
    expect(backend.dump()).toEqual(before);
  });

  test("[HP20] with recreate: false a client with an erased document is sent away, and else brings it back", async () => {
    for (const recreate of [false, true]) {
      const { storage } = await open();
      await storage.append("notes", [updateOf("to be forgotten")]);
      const errors: unknown[] = [];
      const onError = (error: unknown) => errors.push(error);
      const server = await listen([hocuspocusPersistence(storage, { ...retries, onError, recreate })]);
      const before = connect(server);
      await until("it is seen", () => before.text === "to be forgotten");
      before.leave();
      await until("it is unloaded", () => server.hocuspocus.documents.size === 0);
      await storage.erase("notes", { reclaim: false });
      const after = connect(server, "notes", before.doc);
      if (recreate) {
        await until("it is back", async () => (await stored(storage)) === "to be forgotten");
        expect(errors).toEqual([]);
      } else {
        await until("it was refused", () => errors.length > 0);
        expect(errors[0]).toMatchObject({ code: "DELETED", details: { id: "notes" } });
        expect(await storage.info("notes")).toBeUndefined();
        expect(server.hocuspocus.documents.size).toBe(0);
      }
      after.leave();
    }
  });

  test("[HP4] what other extensions put into a document while it is loaded is stored", async () => {
    const { storage } = await open();
    let broken = true;
    const seeding: Extension = {
      priority: 1,
      async onLoadDocument({ document }) {
        if (document.getText("body").length > 0) return;
        document.getText("body").insert(0, broken ? "half loaded" : "template ");
        if (broken) throw new Error("the template service is away");
      },
    };
    const server = await listen([seeding, hocuspocusPersistence(storage)]);
    await expect(server.hocuspocus.openDirectConnection("notes")).rejects.toThrow("template service");
    broken = false;
    const connection = await server.hocuspocus.openDirectConnection("notes");
    await connection.transact((doc) => doc.getText("body").insert(9, "and text"));
    await connection.disconnect();
    expect(await stored(storage)).toBe("template and text");
  });

  test("[HP19] documents whose load another extension fails are let go, and a server that has them ends", async () => {
    for (const hook of ["onLoadDocument", "afterLoadDocument"] as const) {
      const { storage } = await open();
      let isAway = true;
      const bound = bindingsOf(storage);
      const fail = async () => {
        if (isAway) throw new Error("the other database is away");
      };
      const other: Extension = {
        priority: 10,
        onLoadDocument: async ({ document }) => {
          document.getText("body").insert(0, "half of it");
          if (hook === "onLoadDocument") await fail();
        },
        afterLoadDocument: async () => {
          if (hook === "afterLoadDocument") await fail();
        },
      };
      const server = await listen([hocuspocusPersistence(storage), other]);
      for (const name of ["a", "a", "b", "c"]) {
        await expect(server.hocuspocus.openDirectConnection(name)).rejects.toThrow("away");
      }
      await until("all but the newest are let go", () => bound.size === 1);
      isAway = false;
      const connection = await server.hocuspocus.openDirectConnection("d");
      await until("all but the live one are let go", () => bound.size === 1);
      await connection.disconnect();
      isAway = true;
      await expect(server.hocuspocus.openDirectConnection("e")).rejects.toThrow("away");
      let ended = false;
      const ending = server.destroy().then(() => {
        ended = true;
      });
      await until("it has ended", () => ended);
      await ending;
      expect(await stored(storage, "d")).toBe("half of it");
      if (hook === "onLoadDocument") expect(await storage.info("e")).toBeUndefined();
    }
  });

  test("[HP5] corrupt updates close their connection, and reach neither document nor log", async () => {
    const { storage } = await open();
    const errors: unknown[] = [];
    const onError = (error: unknown) => errors.push(error);
    const server = await listen([hocuspocusPersistence(storage, { onError })]);
    const ann = connect(server);
    await until("synced", () => ann.provider.isSynced);
    ann.type("sound");
    await until("stored", async () => (await stored(storage)) === "sound");
    const clock = (await storage.info("notes"))?.clock;
    const document = server.hocuspocus.documents.get("notes")!;
    const sound = updateOf("never to be seen");
    for (let length = 1; length < sound.length; length += 5) {
      const eve = connect(server);
      await until("synced", () => eve.provider.isSynced);
      expect(document.getConnectionsCount()).toBe(2);
      eve.socket.webSocket?.send(syncUpdate("notes", sound.subarray(0, length)));
      await until("eve was thrown out", () => document.getConnectionsCount() === 1);
      eve.leave();
    }
    expect(document.getText("body").toString()).toBe("sound");
    expect((await storage.info("notes"))?.clock).toBe(clock);
    expect(errors).toEqual([]);
  });

  test("[HP6] clients are told what is durable, and never too early", async () => {
    const { storage, backend } = await open();
    const server = await listen([hocuspocusPersistence(storage, { ...retries, announceMs: 1 })]);
    const ann = connect(server);
    await until("synced", () => ann.provider.isSynced);
    const last = () => readDurableMessage(ann.told.at(-1) ?? "");
    ann.type("abc");
    await until("told", () => last()?.clients[ann.doc.clientID] === 3);
    expect(last()).toMatchObject({ clock: 1, pending: 0 });

    backend.failNext("commit", "unavailable", { sticky: true });
    ann.type("de");
    ann.doc.getText("body").delete(0, 1);
    await until("the server has it", () => ann.provider.unsyncedChanges === 0);
    const claimed = ann.told.map((payload) => readDurableMessage(payload)?.clients[ann.doc.clientID] ?? 0);
    expect(Math.max(...claimed)).toBe(3);
    expect(last()).toMatchObject({ clock: 1, pending: 1, clients: {} });
    backend.heal();
    await until("told", () => last()?.pending === 0 && last()!.clock > 1);
    expect(await stored(storage)).toBe("bcde");
    expect(readDurableMessage("of somebody else")).toBeUndefined();
  });

  test("[HP6] a message that was due before an edit never calls that edit saved", async () => {
    const { storage, backend } = await open();
    const server = await listen([hocuspocusPersistence(storage, { ...retries, announceMs: 300 })]);
    const ann = connect(server);
    const says = watchSaved(ann);
    await until("synced", () => ann.provider.isSynced);
    ann.type("a");
    await until("saved", () => says().saved);
    ann.type("b");
    await until("stored", async () => (await stored(storage)) === "ab");
    // The message about "b" is due when the 300 ms are over, and then "c" is pending.
    backend.failNext("commit", "unavailable", { sticky: true });
    ann.type("c");
    await until("told of b", () => says().clock === 2 && ann.provider.unsyncedChanges === 0);
    expect(says()).toMatchObject({ saved: false, pending: 1 });
    backend.heal();
    await until("saved", () => says().saved);
    expect(await stored(storage)).toBe("abc");
  });

  test("[HP6] an edit long after the last message is not called saved when it is acknowledged", async () => {
    const { storage, backend } = await open();
    const server = await listen([hocuspocusPersistence(storage, { ...retries, announceMs: 1 })]);
    const ann = connect(server);
    const says = watchSaved(ann);
    await until("saved", () => ann.provider.isSynced && says().saved);
    ann.type("a");
    await until("saved", () => says().saved && says().clock === 1);
    backend.failNext("commit", "unavailable", { sticky: true });
    const before = says().claims;
    ann.type("b");
    await until("the server has it", () => ann.provider.unsyncedChanges === 0);

    // Who comes back with what the server has already: it is no update, and pending all the same.
    const ben = connect(server);
    const benSays = watchSaved(ben);
    Y.applyUpdate(ben.doc, Y.encodeStateAsUpdate(ann.doc));
    await until("the server has it", () => ben.provider.isSynced && ben.provider.unsyncedChanges === 0);
    expect(says()).toMatchObject({ saved: false, claims: before });
    expect(benSays()).toMatchObject({ saved: false, claims: 0, pending: 1 });
    backend.heal();
    await until("saved", () => says().saved && benSays().saved);
    expect(await stored(storage)).toBe("ab");
  });

  test("[HP6] nothing is called saved again where something can never be stored", async () => {
    const { storage } = await open();
    const errors: unknown[] = [];
    const onError = (error: unknown) => errors.push(error);
    const server = await listen([hocuspocusPersistence(storage, { ...retries, onError, announceMs: 1 })]);
    const ann = connect(server);
    const says = watchSaved(ann);
    ann.type("a");
    await until("saved", () => ann.provider.isSynced && says().saved && says().clock === 1);
    await storage.delete("notes");
    const before = says().claims;
    ann.type("b");
    await until("it has failed", () => errors.length > 0 && ann.provider.unsyncedChanges === 0);
    const ben = connect(server);
    const benSays = watchSaved(ben);
    await until("synced", () => ben.provider.isSynced && benSays().pending !== undefined);
    expect(says()).toMatchObject({ saved: false, claims: before });
    expect(benSays()).toMatchObject({ saved: false, claims: 0, pending: 1 });
  });

  test("[HP7] a direct connection that disconnects, and a server that ends, wait until all is durable", async () => {
    const { storage, backend } = await open();
    const server = await listen([hocuspocusPersistence(storage, retries)], 60_000);
    const direct = await server.hocuspocus.openDirectConnection("direct");
    for (let n = 0; n < 3; n++) backend.failNext("commit", "unavailable");
    await direct.transact((doc) => doc.getText("body").insert(0, "by the server"));
    await direct.disconnect();
    expect(await stored(storage, "direct")).toBe("by the server");

    const ann = connect(server);
    await until("synced", () => ann.provider.isSynced);
    for (let n = 0; n < 3; n++) backend.failNext("commit", "unavailable");
    ann.type("at the last moment");
    await until("the server has it", () => ann.provider.unsyncedChanges === 0);
    ann.leave();
    await server.destroy();
    expect(await stored(storage)).toBe("at the last moment");
  });

  test("[HP8] what can never be stored is an error of onStoreDocument, and ends no process", async () => {
    const { storage } = await open();
    const errors: unknown[] = [];
    const server = await listen([hocuspocusPersistence(storage, { onError: (error) => errors.push(error) })]);
    const ann = connect(server);
    await until("synced", () => ann.provider.isSynced);
    ann.type("before");
    await until("stored", async () => (await stored(storage)) === "before");
    await storage.delete("notes");
    ann.type(" too late");
    await until("told", () => errors.some((error) => isCoppiceError(error, "DELETED")));
    ann.leave();
    await until("it is unloaded", () => server.hocuspocus.documents.size === 0);
    expect(await storage.load("notes")).toBeUndefined();
  });

  test("[HP8] a direct connection that disconnects with what can never be stored ends, and onError was told before", async () => {
    const { storage } = await open();
    const told: (number | undefined)[] = [];
    const persistence = hocuspocusPersistence(storage, { onError: (_, { retryMs }) => told.push(retryMs) });
    const server = await listen([persistence]);
    for (const staysOpen of [false, true]) {
      const name = `direct ${staysOpen}`;
      const direct = await server.hocuspocus.openDirectConnection(name);
      const other = staysOpen ? await server.hocuspocus.openDirectConnection(name) : undefined;
      await direct.transact((doc) => doc.getText("body").insert(0, "before"));
      await until("stored", async () => (await stored(storage, name)) === "before");
      await storage.delete(name);
      await direct.transact((doc) => doc.getText("body").insert(0, "too late"));
      await direct.disconnect();
      expect(told.splice(0)).toEqual([undefined]);
      await other?.disconnect();
      expect(await storage.load(name)).toBeUndefined();
    }
  });

  test("[HP18] a server whose storage was closed before it ends all the same, and says what is not stored", async () => {
    for (const edited of [false, true]) {
      const { storage } = await open();
      const errors: unknown[] = [];
      const onError = (error: unknown) => errors.push(error);
      const server = await listen([hocuspocusPersistence(storage, { onError })], 60_000);
      const ann = connect(server);
      await until("synced", () => ann.provider.isSynced);
      ann.type("before");
      await until("stored", async () => (await stored(storage)) === "before");
      await storage.close();
      if (edited) {
        ann.type(" too late");
        await until("told", () => errors.some((error) => isCoppiceError(error, "CLOSED")));
      }
      let ended = false;
      const ending = server.destroy().then(() => {
        ended = true;
      });
      await until("it has ended", () => ended);
      await ending;
      ann.leave();
      expect(errors).toHaveLength(edited ? 1 : 0);
    }
  });
});

/** What the page about Hocuspocus has clients show: looked at with each message and each acknowledgement. */
function watchSaved({ provider }: TestClient) {
  let last: DurableMessage | undefined;
  let claims = 0;
  const isSaved = () => last?.pending === 0 && provider.unsyncedChanges === 0;
  const show = () => {
    if (isSaved()) claims++;
  };
  provider.on("stateless", ({ payload }: { payload: string }) => {
    last = readDurableMessage(payload) ?? last;
    show();
  });
  provider.on("unsyncedChanges", show);
  return () => ({ saved: isSaved(), claims, clock: last?.clock, pending: last?.pending });
}

function syncUpdate(name: string, update: Uint8Array): Uint8Array<ArrayBuffer> {
  const encoder = encoding.createEncoder();
  encoding.writeVarString(encoder, name);
  encoding.writeVarUint(encoder, 0);
  encoding.writeVarUint(encoder, 2);
  encoding.writeVarUint8Array(encoder, update);
  return new Uint8Array(encoding.toUint8Array(encoder));
}

test("[ST97] the extension refuses options that there are not", async () => {
  const { storage } = await open();
  const options = { anounceMs: 1 } as never;
  expect(() => hocuspocusPersistence(storage, options)).toThrow(
    "hocuspocusPersistence has no option anounceMs",
  );
});

test("[ST98] the extension refuses what is no open storage", () => {
  expect(() => hocuspocusPersistence("./data" as never)).toThrow(
    "hocuspocusPersistence wants an open storage",
  );
});

test("[ST103] reading what is durable out of another thing than a payload is refused", () => {
  for (const given of [5, undefined, null, { payload: "{}" }] as never[])
    expect(() => readDurableMessage(given)).toThrow(
      new TypeError("readDurableMessage wants the payload of a stateless message: a string"),
    );
  expect(readDurableMessage("{}")).toBeUndefined();
});
