/** The meta record as bytes: what is refused on the way in and on the way out. */

import { simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { sealRecord } from "../../src/storage/envelope.js";
import {
  type ArchiveRef,
  emptyMeta,
  type Meta,
  metaKey,
  packRecord,
  type SnapshotRef,
  sealMeta,
  unsealMeta,
} from "../../src/storage/meta.js";

const REF: SnapshotRef = {
  clock: 8,
  stage: 1,
  parts: 1,
  bytes: 1,
  storedBytes: 1,
  time: 1,
  logBytes: 1,
  crc: 1,
};

const segment = (clock: number, end: number): ArchiveRef => ({
  clock,
  end,
  stage: 1,
  parts: 1,
  bytes: 1,
  storedBytes: 1,
  firstTime: 1,
  lastTime: 1,
  logBytes: 1,
  crc: 1,
});

const SOUND: Meta = {
  ...emptyMeta(simulatedEnv(1), "m", 1),
  base: 2,
  oldest: 5,
  previous: { ...REF, clock: 6 },
  snapshot: REF,
  archive: [segment(2, 4), segment(4, 5)],
};

const WRONG: Readonly<Record<string, Partial<Meta>>> = {
  "begins after its oldest batch": { base: 6, archive: [] },
  "was trimmed beyond its older snapshot": { oldest: 7, archive: [] },
  "was trimmed beyond its only snapshot": { oldest: 9, previous: undefined, archive: [] },
  "has an older snapshot that is newer": { previous: { ...REF, clock: 9 } },
  "has an older snapshot alone": { snapshot: undefined },
  "is being brought in and there": { incoming: { nonce: "1", fresh: true } },
  "has an archive with a gap": { archive: [segment(2, 3), segment(4, 5)] },
  "has an archive that ends before the log begins": { archive: [segment(2, 4)] },
  "has an archive from before its begin": { archive: [segment(1, 5)] },
  "has an empty part in its archive": { archive: [segment(2, 5), segment(5, 5)] },
};

test("[FM2] meta comes back as it was written", () => {
  expect(unsealMeta("d", sealMeta("d", SOUND, 1))).toEqual(SOUND);
});

test.each(Object.entries(WRONG))("[LB17] meta that %s is neither written nor read", (_what, change) => {
  const meta = { ...SOUND, ...change };
  expect(() => sealMeta("d", meta, 1)).toThrow(TypeError);
  const { archive, ...rest } = meta;
  const plain = Object.entries({ ...rest, archive: archive.map((ref) => Object.values(ref)) });
  const record = Object.fromEntries(plain.filter(([, value]) => value !== undefined));
  const value = sealRecord(metaKey("d"), 1, packRecord(record));
  expect(() => unsealMeta("d", value)).toThrow(expect.objectContaining({ code: "CORRUPT" }));
});
