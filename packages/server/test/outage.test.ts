/** A server whose storage takes no writes, or takes them slowly: what is told and read meanwhile, and when it is closed so. */

import { simulatedBackend } from "coppice/testing";
import { afterEach, expect, test } from "vitest";
import {
  cleanUp,
  connect,
  message,
  RawClient,
  type RunOptions,
  run,
  stallingStore,
  storedText,
  synced,
  typed,
  until,
} from "./support.js";

afterEach(cleanUp);

/** Two people in one document, one of whom has typed what the other sees, and what is not stored. */
async function unstored(options: RunOptions = {}) {
  const disk = simulatedBackend();
  const running = await run({ backend: disk, ...options });
  const writer = await synced(connect(running, "notes"));
  const reader = await synced(connect(running, "notes"));
  writer.text.insert(0, "stored");
  await until("it is stored", async () => (await storedText(running.storage, "notes")) === "stored");
  disk.failNext("commit", "error");
  writer.text.insert(6, ", and not");
  await until("the other sees it", () => reader.text.toString() === "stored, and not");
  await until("no edits are taken", () => !running.server.gauges().writable);
  return {
    running,
    leave: () => {
      for (const { provider } of [writer, reader]) provider.destroy();
    },
  };
}

test("[SV88] closing the server names the documents of which something is not stored, and closes all the same", async () => {
  const { running, leave } = await unstored({ mayRecover: () => false, mayFail: true });
  const { server, storage } = running;
  const { url } = server;
  leave();
  await expect(server.close()).rejects.toMatchObject({
    code: "OUTCOME_UNKNOWN",
    details: { ids: ["notes"], documents: 1 },
  });
  await expect(server.close()).rejects.toMatchObject({ details: { ids: ["notes"] } });
  await expect(fetch(url)).rejects.toThrow();
  expect(server.gauges()).toMatchObject({ documents: 0, connections: 0, unsavedBytes: 0 });
  expect(await storedText(storage, "notes")).toBe("stored");
});

test("[SV88] closing tries the storage once more, and saves what it takes then", async () => {
  let hasRoom = false;
  const { running, leave } = await unstored({ mayRecover: () => hasRoom });
  leave();
  hasRoom = true;
  await running.server.close();
  expect(await storedText(running.storage, "notes")).toBe("stored, and not");
  expect(running.errors.splice(0)).toHaveLength(1);
});

test("[SV89] an outage is told once, with its reason and its end, however often recoveries are in vain", async () => {
  let isBroken = false;
  let failures = 0;
  const backend = simulatedBackend({
    faults: ({ kind }) => {
      if (!isBroken || kind !== "commit") return undefined;
      failures++;
      return "error";
    },
  });
  const told: boolean[] = [];
  const running = await run({ backend, onWritable: (isWritable) => told.push(isWritable) });
  const client = await synced(connect(running, "notes"));
  const counted = () => running.metrics.figures(running.server.gauges()).counters.errors;
  client.text.insert(0, "stored");
  await until("it is stored", async () => (await storedText(running.storage, "notes")) === "stored");
  expect(told).toEqual([]);
  isBroken = true;
  client.text.insert(6, ", later");
  await until("it was tried again", () => failures > 2);
  expect(running.errors.splice(0)).toMatchObject([{ code: "OUTCOME_UNKNOWN" }]);
  expect([told, counted()]).toEqual([[false], 1]);
  isBroken = false;
  await until("it is stored too", async () => {
    return (
      running.server.gauges().writable && (await storedText(running.storage, "notes")) === "stored, later"
    );
  });
  await until("the end is told", () => told.length > 1);
  expect([told, running.errors]).toEqual([[false, true], []]);
});

test("[SV106] a deletion that fails sends nobody away, and loses nothing that was received", async () => {
  let hasRoom = false;
  const { running, leave } = await unstored({ mayRecover: () => hasRoom });
  const { server, storage, errors } = running;
  const told = new RawClient(`${running.syncUrl}/notes`);
  await told.send(message.step1());
  const path = `${server.url}/api/documents/notes`;
  expect((await fetch(path, { method: "DELETE" })).status).toBe(503);
  expect((await fetch(`${path}/erase`, { method: "POST" })).status).toBe(503);
  expect(server.gauges().connections).toBe(3);
  leave();
  told.socket.close();
  hasRoom = true;
  await until("it takes writes again", () => server.gauges().writable);
  await until("it is stored too", async () => (await storedText(storage, "notes")) === "stored, and not");
  expect(errors.splice(0)).toHaveLength(1);
});

test("[SV106] who waits for a document that there is not goes on waiting when it is to be deleted", async () => {
  const { server, storage, syncUrl } = await run();
  const client = await synced(connect({ syncUrl }, "new"));
  const path = `${server.url}/api/documents/new`;
  expect((await fetch(path, { method: "DELETE" })).status).toBe(404);
  expect((await fetch(`${path}/erase`, { method: "POST" })).status).toBe(404);
  client.text.insert(0, "begun");
  await until("it is stored", async () => (await storedText(storage, "new")) === "begun");
  expect((await fetch(path, { method: "DELETE" })).status).toBe(200);
  await until("it left", () => server.gauges().documents === 0);
});

test("[SV106] a deletion whose outcome was unknown is told by the next one, also where there is nothing left", async () => {
  const disk = simulatedBackend();
  const running = await run({ backend: disk });
  const raw = new RawClient(`${running.syncUrl}/notes`);
  await raw.send(message.step1(), message.update(typed("gone")));
  await until("it is stored", async () => (await storedText(running.storage, "notes")) === "gone");
  disk.failNext("commit", "unknown-applied");
  const path = `${running.server.url}/api/documents/notes`;
  expect((await fetch(path, { method: "DELETE" })).status).toBe(503);
  await until("it takes writes again", () => running.server.gauges().writable);
  expect((await fetch(path, { method: "DELETE" })).status).toBe(404);
  expect(await raw.closed).toMatchObject({ code: 4410 });
  expect(running.errors.splice(0)).toHaveLength(1);
});

test("[SV106] an erasure that fails behind the deletion ends the connections, and is repeated", async () => {
  const disk = simulatedBackend();
  const running = await run({ backend: disk });
  await running.storage.append("notes", [typed("gone")]);
  const raw = new RawClient(`${running.syncUrl}/notes`);
  await raw.send(message.step1());
  await until("it is shown", () => raw.of(0).some((sync) => sync.varint() === 1));
  disk.failNext("reclaim", "unavailable");
  const path = `${running.server.url}/api/documents/notes/erase`;
  expect((await fetch(path, { method: "POST" })).status).toBe(503);
  expect(await raw.closed).toMatchObject({ code: 4410 });
  expect((await fetch(path, { method: "POST" })).status).toBe(404);
});

test("[SV107] while the disk is behind nobody is read, whoever comes meanwhile neither", async () => {
  const { backend, stall, goOn } = stallingStore();
  const unsavedBytesMax = 50_000;
  const running = await run({ backend, limits: { unsavedBytesMax } });
  const writer = new RawClient(`${running.syncUrl}/notes`);
  await writer.send(message.step1(), message.step2(typed("hi")));
  await until("it is stored", async () => (await storedText(running.storage, "notes")) === "hi");
  stall();
  const unsaved = () => running.server.gauges().unsavedBytes;
  try {
    await writer.send(message.update(typed("x".repeat(60_000))));
    await until("the disk is behind", () => unsaved() > unsavedBytesMax);
    for (let n = 0; n < 5; n++) {
      const late = new RawClient(`${running.syncUrl}/notes`);
      await late.send(message.step1(), message.update(typed("y".repeat(60_000))));
      await until("it is joined", () => late.received.length > 0);
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(unsaved()).toBeLessThan(2 * unsavedBytesMax);
  } finally {
    goOn();
  }
  await until("all is stored", async () => (await storedText(running.storage, "notes"))?.length === 360_002);
});
