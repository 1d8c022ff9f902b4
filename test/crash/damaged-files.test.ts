// Every file of a small store is damaged in every way: flipped bits, wrong bytes, zeroed sectors, cut
// anywhere, deleted,
// swapped with another, put back as it was earlier. What is opened afterwards must be whole, or say that it
// is damaged.
//
// The stated exception, without an anchor: the end of the newest log. Damage to its last record, the end
// cut off, or the
// log put back as it was earlier, looks like commits that a crash overtook.

import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type SeededRandom, seededRandom } from "coppice/testing";
import { afterAll, beforeAll, expect, test } from "vitest";
import { naming } from "../support/oracle-model.js";
import { Court } from "./laboratory/court.js";
import { note, repetitions, replay, SEED, TEST_MS_MAX } from "./laboratory/effort.js";
import { type BackendName, EXAMINED, openStore } from "./laboratory/stores.js";

const DAMAGES = 140;
const CALLERS = 3;
const EVENTS = 150;
const SECTOR_BYTES = 512;
/** LevelDB writes them for people, or looks at nothing in them. */
const UNREAD = ["LOCK", "LOG", "LOG.old"];
const KINDS = ["flip", "byte", "zeros", "cut", "delete", "swap", "stale"] as const;
type Kind = (typeof KINDS)[number];
let folder = "";

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "coppice-damage-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Damage {
  readonly kind: Kind;
  readonly file: string;
  readonly at: number;
  /** Whether it may take the end of the newest log. */
  readonly takesEnd: boolean;
}

test.for(EXAMINED)(
  "[LB13] whatever is damaged is refused or harmless, but for the end of the newest log: %s",
  { timeout: TEST_MS_MAX },
  async (backend, context) => {
    const good = join(folder, backend);
    const earlier = `${good}-earlier`;
    await fill(backend, good, earlier);
    const court = new Court(backend);
    const counts: Record<string, number> = { damages: 0 };
    for (const i of repetitions(DAMAGES)) {
      const location = join(folder, `damaged-${i}`);
      cpSync(good, location, { recursive: true });
      if (backend === "level-anchored") cpSync(`${good}.anchor`, `${location}.anchor`);
      const damage = harm(location, earlier, seededRandom(SEED + i), KINDS[i % KINDS.length]!);
      const told = Array.from({ length: CALLERS }, (_, caller) => [caller, EVENTS] as const);
      const verdict = await court.judge({ location, told, more: 0 });
      const excused = verdict.kind === "lost" && damage.takesEnd && backend !== "level-anchored";
      const kind = excused ? "excused" : verdict.kind;
      counts.damages!++;
      counts[kind] = (counts[kind] ?? 0) + 1;
      const what = `${damage.kind} ${damage.file} at ${damage.at}: ${verdict.why}\n${replay("damaged-files.test.ts", i)}`;
      expect.soft(["sound", "refused", "excused"], what).toContain(kind);
      rmSync(location, { recursive: true });
      rmSync(`${location}.anchor`, { force: true });
    }
    await court.close();
    note(`damage-${backend}`, counts);
    console.log(backend, JSON.stringify(counts));
    if (counts.damages! >= DAMAGES) expect(counts.refused).toBeGreaterThan(counts.damages! / 3);
    context.onTestFinished(() => rmSync(good, { recursive: true, force: true }));
  },
);

/** Several openings, so that there are tables, a log, and an earlier state to put back. */
async function fill(backend: BackendName, good: string, earlier: string): Promise<void> {
  const openings = 3;
  for (let opening = 0; opening < openings; opening++) {
    const storage = await openStore(backend, good);
    const each = EVENTS / openings;
    await Promise.all(
      Array.from({ length: CALLERS }, async (_, caller) => {
        for (let n = opening * each + 1; n <= (opening + 1) * each; n++) {
          await storage.append(`names-${caller}`, [naming(`${n}${"x".repeat(300)}`)]);
        }
      }),
    );
    await storage.close();
    if (opening === 0) cpSync(good, earlier, { recursive: true });
  }
}

function harm(location: string, earlier: string, random: SeededRandom, kind: Kind): Damage {
  const files = readdirSync(location).filter((name) => !UNREAD.includes(name));
  const file = random.pick(files);
  const path = join(location, file);
  const bytes = readFileSync(path);
  const newestLog = files
    .filter((name) => name.endsWith(".log"))
    .sort()
    .at(-1);
  let at = random.int(Math.max(1, bytes.length));
  let reach = at;
  if (kind === "flip" || kind === "byte") {
    bytes[at] = bytes[at]! ^ (kind === "flip" ? 1 << random.int(8) : 1 + random.int(255));
    writeFileSync(path, bytes);
  } else if (kind === "zeros") {
    at -= at % SECTOR_BYTES;
    reach = Math.min(bytes.length, at + SECTOR_BYTES) - 1;
    writeFileSync(path, bytes.fill(0, at, reach + 1));
  } else if (kind === "cut") {
    reach = bytes.length;
    writeFileSync(path, bytes.subarray(0, at));
  } else if (kind === "delete") {
    rmSync(path);
  } else {
    const other =
      kind === "swap" ? join(location, random.pick(files)) : join(earlier, random.pick(readdirSync(earlier)));
    writeFileSync(path, readFileSync(other));
    if (kind === "swap") writeFileSync(other, bytes);
  }
  return {
    kind,
    file,
    at,
    takesEnd: file === newestLog && (kind === "stale" || reach >= lastRecordOf(bytes)),
  };
}

/** Where the last record of a log begins: its parts follow each other in blocks of 32 KiB. */
function lastRecordOf(log: Uint8Array): number {
  let [at, last] = [0, 0];
  while (at + 7 < log.length) {
    const left = 32_768 - (at % 32_768);
    if (left < 7) {
      at += left;
      continue;
    }
    const type = log[at + 6]!;
    if (type === 1 || type === 2) last = at;
    at += 7 + log[at + 4]! + log[at + 5]! * 256;
  }
  return last;
}
