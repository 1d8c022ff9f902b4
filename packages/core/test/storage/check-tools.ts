/** What the tests of `check` do to a stored document, and what they expect of a check and a repair. */

import { type CheckProblem, type CheckReport, crc32, encodeKey, type Key } from "coppice";
import type { SimulatedBackend } from "coppice/testing";
import { expect } from "vitest";
import { type Envelope, seal, sealRecord, unseal } from "../../src/storage/envelope.js";
import {
  type Meta,
  metaKey,
  packSnapshotRecord,
  type SnapshotRecord,
  sealMeta,
  snapshotKey,
  unpackSnapshotRecord,
  unsealMeta,
} from "../../src/storage/meta.js";
import { contentsOf, ID, look, type Seen, using, valueAt } from "./check-workload.js";

export const META: Key = metaKey(ID);

export const check = (backend: SimulatedBackend): Promise<CheckReport> =>
  using(backend, (storage) => storage.check());
export const repair = (backend: SimulatedBackend): Promise<CheckReport> =>
  using(backend, (storage) => storage.check({ repair: true }));
export const seen = (backend: SimulatedBackend): Promise<Seen | undefined> => using(backend, look);
export const codes = (report: CheckReport): string[] => report.problems.map(({ code }) => code);
export const metaOf = (backend: SimulatedBackend): Meta => unsealMeta(ID, valueAt(backend, META));
export const named = (backend: SimulatedBackend, name: "snapshot" | "previous", part = 0): Key =>
  snapshotKey(ID, metaOf(backend)[name]!, part);

export function changeMeta(backend: SimulatedBackend, change: (meta: Meta) => Meta): void {
  backend.putRaw(META, sealMeta(ID, change(metaOf(backend)), 1));
}

/** Seals another envelope under a key, with a checksum that is right. */
export function reseal(backend: SimulatedBackend, key: Key, change: (envelope: Envelope) => Envelope): void {
  backend.putRaw(key, seal(key, change(unseal(key, valueAt(backend, key)))).bytes);
}

/** The same for the record of a snapshot. */
export function rerecord(
  backend: SimulatedBackend,
  name: "snapshot" | "previous",
  change: (record: SnapshotRecord) => SnapshotRecord,
): void {
  const key = named(backend, name);
  const record = unpackSnapshotRecord(key, unseal(key, valueAt(backend, key)).payload);
  backend.putRaw(key, sealRecord(key, 1, packSnapshotRecord(change(record))));
}

/** The same value as a later format would write it: another version byte, a right checksum. */
export function newer(key: Key, value: Uint8Array): Uint8Array {
  const changed = Uint8Array.from(value);
  changed[0] = 2;
  const crc = crc32(changed.subarray(0, -4), crc32(encodeKey(key)));
  new DataView(changed.buffer).setUint32(changed.length - 4, crc, true);
  return changed;
}

/** The one problem that is found; it changes nothing to look. A repair then leaves none, and no garbage. */
export async function repairsTo(
  backend: SimulatedBackend,
  code: string,
  lostEvents = 0,
): Promise<CheckProblem> {
  const before = contentsOf(backend);
  const found = await check(backend);
  expect(codes(found)).toEqual([code]);
  expect(found.clean).toBe(false);
  expect(contentsOf(backend)).toEqual(before);
  const report = await repair(backend);
  expect(report.clean).toBe(true);
  expect(report.problems.map((problem) => ({ ...problem, repaired: false }))).toEqual(found.problems);
  expect(report.problems[0]!.lostEvents ?? 0).toBe(lostEvents);
  const again = await check(backend);
  expect(again.problems).toEqual([]);
  expect(again.lost).toEqual(lostEvents === 0 ? [] : [{ id: ID, events: lostEvents }]);
  expect(again.garbageKeys).toBe(0);
  return report.problems[0]!;
}

/** The problems are found, and a repair changes nothing at all. */
export async function stays(backend: SimulatedBackend, ...expected: readonly string[]): Promise<CheckReport> {
  const before = contentsOf(backend);
  expect(codes(await check(backend)).sort()).toEqual([...expected].sort());
  const report = await repair(backend);
  expect(codes(report).sort()).toEqual([...expected].sort());
  expect(report.problems.map((problem) => problem.repaired)).toEqual(expected.map(() => false));
  expect(report.clean).toBe(false);
  expect(contentsOf(backend)).toEqual(before);
  return report;
}
