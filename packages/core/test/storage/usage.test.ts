// What a document takes in the store, against the sums of all that is stored.
import { DocumentStorage, type DocumentUsage, type HistoryPolicy, never } from "coppice";
import { seededRandom, simulatedBackend } from "coppice/testing";
import { expect, test } from "vitest";
import { nameSet, naming } from "../../../../test/support/oracle-model.js";
import { unseal } from "../../src/storage/envelope.js";
import { openBatch } from "../../src/storage/reader.js";

const models = [nameSet()] as const;
const HISTORIES: readonly (HistoryPolicy | undefined)[] = [undefined, "archive", { keepEvents: 7 }];

test("[ST100] usage is the sum of what is stored, whatever was trimmed, archived, tagged and held", async () => {
  const seen = { trimmed: 0, archived: 0, tagged: 0, held: 0, between: 0 };
  for (let seed = 1; seed <= 24; seed++) {
    const random = seededRandom(seed);
    const backend = simulatedBackend();
    const history = HISTORIES[seed % HISTORIES.length];
    const options = { backend, models, snapshotPolicy: never, ...(history && { history }) };
    const storage = await DocumentStorage.open(options);
    const summed = () => {
      const sums = { retainedBytes: 0, snapshotBytes: 0, archiveBytes: 0, tagBytes: 0, heldBytes: 0 };
      const names = {
        snapshot: "snapshotBytes",
        archive: "archiveBytes",
        tagged: "tagBytes",
        held: "heldBytes",
      };
      for (const { key, value } of backend.dump()) {
        if (key[0] === "events") sums.retainedBytes += openBatch(key, value).payload.length;
        const name = names[key[0] as keyof typeof names] as keyof typeof sums | undefined;
        if (name === "heldBytes") sums[name] += value.length;
        else if (name !== undefined) sums[name] += unseal(key, value).payload.length;
      }
      return sums;
    };
    for (let step = 0; step < 25; step++) {
      const events = Array.from({ length: 1 + random.int(4) }, (_, i) =>
        // Of those that build on what never comes.
        naming(`n${seed}.${step}.${i}`, random.int(6) === 0 ? ["never"] : []),
      );
      await storage.append("d", events);
      if (random.int(5) === 0) await storage.compact("d", { force: true });
      if (random.int(8) === 0) await storage.tag("d", `tag ${random.int(4)} of ${step}`);
      const info = (await storage.info("d", { usage: true }))!;
      const { storedBytes, tags, heldEvents, ...parts } = info.usage as DocumentUsage;
      expect([seed, step, parts]).toEqual([seed, step, summed()]);
      expect(storedBytes).toBe(Object.values(parts).reduce((total, bytes) => total + bytes, 0));
      expect(tags).toBe((await storage.tags("d")).length);
      seen.trimmed += info.oldestClock > 0 ? 1 : 0;
      seen.archived += parts.archiveBytes > 0 ? 1 : 0;
      seen.tagged += tags;
      seen.held += heldEvents;
      seen.between += info.oldestClock > 0 && info.oldestClock < (info.snapshotClock ?? 0) ? 1 : 0;
    }
    await storage.close();
  }
  for (const times of Object.values(seen)) expect(times).toBeGreaterThan(20);
});

test("[ST100] usage is told when it is asked for, and not of what is not there", async () => {
  const storage = await DocumentStorage.open({ backend: simulatedBackend(), models, snapshotPolicy: never });
  await storage.append("d", [naming("a")]);
  expect(await storage.info("d")).not.toHaveProperty("usage");
  expect((await storage.info("d", { usage: true }))?.usage?.heldEvents).toBe(0);
  await storage.delete("d");
  for (const id of ["d", "none"]) expect(await storage.info(id, { usage: true })).toBe(undefined);
  await storage.close();
});

test("[ST100] a damaged record is CORRUPT with usage, and no matter without", async () => {
  const backend = simulatedBackend();
  const storage = await DocumentStorage.open({ backend, models, snapshotPolicy: never });
  await storage.append("d", [naming("a")]);
  await storage.tag("d", "one");
  backend.flip(["tags", "d"], 9);
  await expect(storage.info("d", { usage: true })).rejects.toMatchObject({ code: "CORRUPT" });
  expect((await storage.info("d"))?.clock).toBe(1);
  await storage.close();
});
