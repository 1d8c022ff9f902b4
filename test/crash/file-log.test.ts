// Documents on the file log, on a simulated disk that stops at one operation after the other: what the storage above
// promised holds in what a loss of power may leave, in every model of the disk.
//
// COPPICE_FILE_DOCUMENT_STATES=<count> looks at about so many states (default 200).

import { fileLogBackend } from "@coppice/file";
import { crashModels, type DiskImage, failure, SimulatedDisk } from "@coppice/file/testing";
import { yjs } from "@coppice/yjs";
import { DocumentStorage, everyEvents } from "coppice";
import { seededRandom, simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { Ledger, type NameStorage } from "../support/oracle.js";
import { add, type NameSet, nameSet, naming } from "../support/oracle-model.js";

const STATES = Number(process.env.COPPICE_FILE_DOCUMENT_STATES ?? 200);

function open(disk: SimulatedDisk, seed: number): Promise<NameStorage> {
  return DocumentStorage.open({
    // Small segments, merged early, so that rotations and merges fall between the steps.
    backend: fileLogBackend("simulated", {
      files: disk.files,
      segmentBytesMax: 64 * 1024,
      mergeDeadRatioMin: 0.2,
    }),
    models: [nameSet(), yjs()],
    env: simulatedEnv(seed, { autoAdvance: true }),
    snapshotPolicy: everyEvents(9),
  });
}

/** Everything that a storage writes, on two documents, with names so long that the log rotates. */
async function workload(storage: NameStorage, ledger: Ledger): Promise<void> {
  const long = (name: string) => `${name}${"x".repeat(3000)}`;
  const append = (id: string, ...names: string[]) =>
    ledger.submit(id, names, () =>
      storage.append(
        id,
        names.map((name) => naming(name)),
      ),
    );
  for (let round = 0; round < 4; round++) {
    const name = (text: string) => long(`${text}${round}`);
    await Promise.all([
      append("a", name("a1")),
      append("a", name("a2"), name("a3")),
      append("b", name("b1")),
    ]);
    const handle = await storage.open<NameSet>("b");
    handle.change(add(name("b2")));
    await ledger.submit("b", [name("b2")], () => handle.save());
    await storage.compact("a");
    await Promise.all([append("a", name("a4")), append("b", name("b3"))]);
    await handle.close();
    await storage.compact("b");
  }
  await ledger.remove("b", () => storage.delete("b"));
  await (await ledger.create("b", () => storage.open<NameSet>("b", { recreate: true }))).close();
  await append("b", "again");
}

async function aftermath(image: DiskImage, ledger: Ledger): Promise<void> {
  const disk = new SimulatedDisk(image);
  const storage = await open(disk, 7);
  await ledger.verify(storage);
  await ledger.create("a", async () => (await storage.open("a", { recreate: true })).close());
  await ledger.submit("a", ["after"], () => storage.append("a", [naming("after")]));
  await storage.compact("a");
  await storage.close();
  const reopened = await open(disk, 8);
  await ledger.verify(reopened);
  await reopened.close();
}

test("[FL15] documents on a file log keep what was acknowledged, whatever operation of the disk was the last", {
  timeout: 600_000,
}, async () => {
  const calm = new SimulatedDisk();
  const storage = await open(calm, 1);
  await workload(storage, new Ledger());
  await storage.close();
  const stride = Math.max(1, (calm.operationCount * crashModels.length) / STATES);
  let states = 0;
  for (let state = 0; state < calm.operationCount * crashModels.length; state += stride) {
    const at = Math.floor(state / crashModels.length);
    const model = crashModels[Math.floor(state) % crashModels.length]!;
    const disk = new SimulatedDisk();
    disk.fault = ({ index }) => (index >= at ? failure("EIO") : undefined);
    const ledger = new Ledger();
    try {
      const dying = await open(disk, 1);
      await workload(dying, ledger).finally(() => dying.close());
    } catch {
      // That is the crash; what is left is looked at below.
    }
    try {
      await aftermath(disk.crash(model, seededRandom(at)), ledger);
    } catch (error) {
      throw new Error(`operation ${at}, ${model.title}`, { cause: error });
    }
    states++;
  }
  expect(states).toBeGreaterThanOrEqual(Math.min(STATES, calm.operationCount));
});
