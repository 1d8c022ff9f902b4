// The power of a real file system is cut while callers append: ext4 and XFS on a loop device, by their
// shutdown call,
// and a device whose volatile cache is lost. After each cut the file system recovers, the store is opened
// again, and
// everything that was acknowledged must be there.

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Backend, BackendFactory } from "coppice";
import { type BackendSubject, backendCases, runCase } from "coppice/conformance";
import { seededRandom } from "coppice/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Court } from "./laboratory/court.js";
import { LONG, note, ONLY, repetitions, replay, SEED, TEST_MS_MAX } from "./laboratory/effort.js";
import { type FileSystem, LoopDisk, loopMissing } from "./laboratory/loop-disk.js";
import { BACKENDS, type BackendName, backendAt } from "./laboratory/stores.js";
import { merge, total, Writers } from "./laboratory/writers.js";

const cutsOf = (backend: BackendName): number => (backend === "file" ? 20 : 10);
/** A store is cut so often before a new one is begun. */
const ROUNDS = 10;
const CALLERS = 8;
/** In every other pair of cuts so many, whose commits a file log gets ahead. */
const MANY_CALLERS = 48;
const FILE_SYSTEMS: readonly FileSystem[] = ["ext4", "xfs"];
let folder = "";

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "coppice-power-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const pairs = BACKENDS.flatMap((backend) => FILE_SYSTEMS.map((kind) => [backend, kind] as const));

test.for(pairs)(
  "[LB12] every acknowledged event outlives a power cut: %s on %s",
  { timeout: TEST_MS_MAX },
  async ([backend, kind], context) => {
    const missingReason = loopMissing(kind);
    if (missingReason !== undefined) return context.skip(missingReason);
    const disk = new LoopDisk(kind, folder);
    const court = new Court(backend);
    const counts = { cuts: 0, acknowledged: 0, lost: 0 };
    try {
      let told = new Map<number, number>();
      let location = "";
      for (const i of repetitions(cutsOf(backend))) {
        if (i % ROUNDS === 0 || location === "") {
          if (location !== "") rmSync(location, { recursive: true });
          location = join(disk.mountPoint, `store-${i}`);
          told = new Map();
        }
        const before = total(told);
        merge(told, await writeUntilCut(backend, location, disk, i));
        counts.acknowledged += total(told) - before;
        const more = (i % ROUNDS) + 1;
        const verdict = await court.judge({ location, told: [...told], more });
        counts.cuts++;
        if (verdict.kind !== "sound") counts.lost++;
        expect(verdict, `cut ${i}\n${replay("power-cut.test.ts", i)}`).toEqual({ kind: "sound", why: "" });
      }
    } finally {
      await court.close();
      await disk.remove();
    }
    note(`power-${backend}-${kind}`, counts);
    console.log(backend, kind, JSON.stringify(counts));
    if (!LONG && ONLY === undefined) expect(counts.cuts).toBeGreaterThanOrEqual(cutsOf(backend));
    expect(counts.acknowledged).toBeGreaterThan(counts.cuts * CALLERS);
  },
);

async function writeUntilCut(
  backend: BackendName,
  location: string,
  disk: LoopDisk,
  i: number,
): Promise<ReadonlyMap<number, number>> {
  const random = seededRandom(SEED + i);
  const callers = i % 4 < 2 ? CALLERS : MANY_CALLERS;
  const writers = await Writers.start(folder, {
    backend,
    location,
    callers,
    padding: 400,
    compact: i % 2 === 1,
  });
  await writers.until(callers + random.int(300));
  await disk.cut();
  const { told, opened, ending } = await writers.end();
  expect(opened, ending).toBe(true);
  await disk.unmount();
  disk.mount();
  return told;
}

/** Stores on a disk whose power can be cut while this process lives on. */
function cutting(backend: BackendName, disk: LoopDisk): BackendSubject {
  const stores = new Map<BackendFactory, { readonly location: string; readonly opened: Backend[] }>();
  let made = 0;
  const create = async (location = join(disk.mountPoint, `case-${++made}`)): Promise<BackendFactory> => {
    const inner = backendAt(backend, location);
    const opened: Backend[] = [];
    const factory: BackendFactory = {
      name: inner.name,
      async open(env) {
        const one = await inner.open(env);
        opened.push(one);
        return one;
      },
    };
    stores.set(factory, { location, opened });
    return factory;
  };
  return {
    name: `${backend} on ${disk.kind}`,
    create: () => create(),
    destroy: async (factory) => rmSync(stores.get(factory)!.location, { recursive: true }),
    async powerLoss(factory) {
      const { location, opened } = stores.get(factory)!;
      await disk.cut();
      // Only this lets go of the files; nothing that it writes arrives any more.
      for (const one of opened) await one.close().catch(() => undefined);
      await disk.unmount();
      disk.mount();
      return create(location);
    },
  };
}

describe.each(pairs.filter(([, kind]) => kind === "ext4"))(
  "%s on %s, by the conformance kit",
  (backend, kind) => {
    const missingReason = loopMissing(kind);
    let disk: LoopDisk | undefined;

    beforeAll(() => {
      const home = join(folder, `kit-${backend}`);
      mkdirSync(home, { recursive: true });
      if (missingReason === undefined) disk = new LoopDisk(kind, home);
    });
    afterAll(() => disk?.remove());

    for (const item of backendCases.filter(({ title }) => title.includes("a loss of power"))) {
      test(item.name, async (context) => {
        if (disk === undefined) return context.skip(missingReason ?? "there is no disk: reason unknown");
        await runCase(item, cutting(backend, disk), (reason) => context.skip(reason));
      });
    }
  },
);
