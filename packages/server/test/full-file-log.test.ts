/** A server on a file log whose disk is full: what its clients are told, and what they have once there is room. */

import { fileLogBackend } from "@coppice/file";
import { SimulatedDisk } from "@coppice/file/testing";
import { DurabilityWatch } from "@coppice/server/client";
import { afterEach, expect, test } from "vitest";
import { atEnd, cleanUp, connect, run, storedText, synced, until } from "./support.js";

afterEach(cleanUp);

test("[SV85] a full file log refuses edits, is read on, and costs nothing once there is room", async () => {
  const disk = new SimulatedDisk();
  const backend = fileLogBackend("simulated", { segmentBytesMax: 64 * 1024, files: disk.files });
  const told: boolean[] = [];
  const onWritable = (isWritable: boolean) => told.push(isWritable);
  const limits = { unsavedBytesMax: 64 * 1024 };
  const { storage, server, syncUrl, errors } = await run({ backend, limits, onWritable });
  const [writer, reader] = [
    await synced(connect({ syncUrl }, "notes")),
    await synced(connect({ syncUrl }, "notes")),
  ];
  const watch = new DurabilityWatch(writer.provider);
  atEnd(() => watch.stop());
  writer.text.insert(0, "first ");
  await watch.settled();
  disk.capacityBytes = 0;
  const page = "x".repeat(10_000);
  await until("edits are refused", async () => {
    if (writer.text.length < 1_000_000) writer.text.insert(0, page);
    await new Promise((resolve) => setTimeout(resolve, 10));
    return !watch.writable;
  });
  expect(server.gauges().writable).toBe(false);
  const seen = writer.text.length;
  writer.provider.awareness.setLocalState({ name: "Ann" });
  const shown = () => reader.provider.awareness.getStates().get(writer.doc.clientID)?.name;
  await until("the writer is read on", () => shown() === "Ann");
  expect((await synced(connect({ syncUrl }, "notes"))).text.toString()).toMatch(/first $/);
  expect(watch.pendingCount).toBeGreaterThan(0);
  // It is tried again and again, and told once.
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(errors.splice(0)).toMatchObject([{ code: "STORE_FULL" }]);
  expect(told).toEqual([false]);
  disk.capacityBytes = Number.POSITIVE_INFINITY;
  await watch.settled();
  expect(await storedText(storage, "notes")).toHaveLength(seen);
  await until("the other has it", () => reader.text.length === seen);
  writer.text.insert(0, "again ");
  await until("the end is told", () => told.length > 1);
  expect(told).toEqual([false, true]);
});
