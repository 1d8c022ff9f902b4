/** Every byte of a stored document damaged in turn: nothing wrong is ever shown, and a repair saves what is intact. */

import { isCoppiceError, type Key } from "coppice";
import type { SimulatedBackend } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { LOST_REASON } from "../../src/storage/loader.js";
import { build, EARLY, event, ID, idOf, LATE, look, type Seen, type Shape, using } from "./check-workload.js";

const ALL = [...EARLY, ...LATE];
const SHAPES: readonly Shape[] = ["log", "snapshot", "compacted", "covered"];

interface Damage {
  readonly name: string;
  readonly key: Key;
  /** Every damage is to be noticed; these, and all that a repair may try to read, are repaired as well. */
  readonly repair: boolean;
  readonly make: (backend: SimulatedBackend) => void;
}

function* damages(backend: SimulatedBackend): Generator<Damage> {
  for (const { key, value } of backend.dump()) {
    for (let at = 0; at < value.length; at++) {
      const mask = 1 << (at % 8);
      yield {
        name: `flip ${key.join("/")} byte ${at}`,
        key,
        repair: repaired(at),
        make: (one) => one.flip(key, at, mask),
      };
    }
    for (let length = 0; length < value.length; length++) {
      yield {
        name: `cut ${key.join("/")} to ${length}`,
        key,
        repair: repaired(length),
        make: (one) => one.truncate(key, length),
      };
    }
  }
}

const repaired = (at: number): boolean => at < 4 || at % 13 === 0;

/** Ids of the events whose only bytes are in the value at this key. */
function onlyIn(key: Key, shape: Shape): ReadonlySet<string> {
  const [space, , clock] = key;
  if (space === "held") return new Set(shape === "snapshot" ? [] : [idAt(clock!)]);
  if (space !== "events" || shape === "covered") return new Set();
  const covered = shape === "log" ? 0 : EARLY.flat().length;
  let start = 0;
  for (const events of ALL) {
    if (start === clock && clock >= covered) return new Set(events.map(idOf));
    start += events.length;
  }
  return new Set();
}

const idAt = (clock: number): string => idOf(ALL.flat()[clock]!);

async function verify(backend: SimulatedBackend, shape: Shape, damage: Damage, before: Seen): Promise<void> {
  const { key } = damage;
  await using(backend, async (storage) => {
    const loaded = await look(storage).catch((error: unknown) => {
      if (!isCoppiceError(error)) throw error;
      expect(error.kind).toBe("corrupt");
      return undefined;
    });
    if (loaded !== undefined) expect(loaded).toEqual(before);
    const found = await storage.check();
    expect(found.clean).toBe(false);
    if (!damage.repair) return;
    const repaired = await storage.check({ repair: true });
    expect(repaired.problems.filter((problem) => !problem.repaired)).toEqual([]);
    const again = await storage.check();
    expect(again.problems).toEqual([]);
    expect(again.quarantined).toBeGreaterThan(0);
    const lost = onlyIn(key, shape);
    const after = (await look(storage))!;
    const shown = new Set([...after.items.map((item) => item.split("=")[0]), ...after.heldIds]);
    const missing = ALL.flat()
      .map(idOf)
      .filter((id) => !shown.has(id));
    expect(missing.filter((id) => !lost.has(id))).toEqual([]);
    const gone = after.held.filter((held) => held.endsWith(LOST_REASON)).length;
    expect(repaired.problems.reduce((sum, problem) => sum + (problem.lostEvents ?? 0), 0)).toBe(gone);
    expect(again.lost).toEqual(gone === 0 ? [] : [{ id: ID, events: gone }]);
    const last = ALL.flat().length - ALL.at(-1)!.length;
    if (key[0] !== "events" || key[2] !== last) expect(after.clock).toBe(before.clock);
    else expect(after.clock).toBeGreaterThan(last);
    // And life goes on.
    const { clock } = await storage.append(ID, [event("after", ["a"])]);
    expect(clock).toBe(after.clock + 1);
    await storage.compact(ID);
    expect((await storage.check()).problems).toEqual([]);
    const end = (await look(storage))!;
    expect(end.clock).toBe(clock);
    for (const item of after.items) expect(end.items).toContain(item);
  });
}

describe.each(SHAPES)("a document of the shape %s", (shape) => {
  test(`[CK1] any damaged byte or cut is found, never shown, and repaired at the cost of its own events`, async () => {
    const backend = await build(shape);
    const whole = backend.dump();
    const before = (await using(backend, look))!;
    expect((await using(backend, (storage) => storage.check())).problems).toEqual([]);
    let count = 0;
    for (const damage of damages(backend)) {
      backend.restore(whole);
      damage.make(backend);
      try {
        await verify(backend, shape, damage, before);
      } catch (error) {
        throw new Error(damage.name, { cause: error });
      }
      count++;
    }
    expect(count).toBeGreaterThan(500);
  });
});
