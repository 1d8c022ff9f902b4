// Disks that fail: full ones, calls that report errors at any moment, and a device whose writes fail for a
// while. What was acknowledged before, between and after must be there.

import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BackendSubject, backendCases, runCase } from "coppice/conformance";
import { directorySubject } from "coppice/conformance/directory";
import { seededRandom } from "coppice/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Court } from "./laboratory/court.js";
import { note, repetitions, replay, SEED, TEST_MS_MAX } from "./laboratory/effort.js";
import { BACKENDS, type BackendName, backendAt } from "./laboratory/stores.js";
import { recordingMissing } from "./laboratory/system-calls.js";
import { deviceMissing, UserDevice } from "./laboratory/user-device.js";
import { Writers } from "./laboratory/writers.js";

const FAULTS = 10;
const CALLERS = 4;
const MIB = 1024 * 1024;
let folder = "";

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "coppice-failing-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function tmpfsMissing(): string | undefined {
  if (process.platform !== "linux") return "a small tmpfs needs Linux";
  return process.getuid?.() === 0 ? undefined : "mounting needs root";
}

/** Stores on a disk of 24 MiB, which is full but for 1 MiB once `fillDisk` was called. */
function smallDisk(backend: BackendName, mountPoint: string): BackendSubject {
  return {
    ...directorySubject({
      name: backend,
      parent: mountPoint,
      backend: (location) => backendAt(backend, location),
    }),
    async fillDisk() {
      const ballast = join(mountPoint, "ballast");
      const { bavail, bsize } = statfsSync(mountPoint);
      writeFileSync(ballast, Buffer.alloc(Math.max(0, bavail * bsize - MIB), 1));
      return async () => rmSync(ballast);
    },
  };
}

describe.each(BACKENDS)("%s on a full disk", (backend) => {
  const missingReason = tmpfsMissing();
  let mountPoint = "";

  beforeAll(() => {
    if (missingReason !== undefined) return;
    mountPoint = join(folder, `small-${backend}`);
    mkdirSync(mountPoint);
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=24m", "tmpfs", mountPoint]);
  });
  afterAll(() => {
    if (mountPoint !== "") execFileSync("umount", [mountPoint]);
  });

  for (const item of backendCases.filter(({ level }) => level === "full-disk")) {
    test(`[LB14] ${item.title}`, async (context) => {
      if (missingReason !== undefined) return context.skip(missingReason);
      await runCase(item, smallDisk(backend, mountPoint), (reason) => context.skip(reason));
    });
  }
});

/** How the engines write is their own affair: each of these is met by one of them at least. */
const CALLS: Readonly<Record<string, readonly string[]>> = {
  file: ["fdatasync", "pwrite64", "fdatasync", "rename", "pwrite64"],
  level: ["fdatasync", "fsync", "write", "rename", "openat"],
};
const ERRORS = ["EIO", "ENOSPC"] as const;

test.for(BACKENDS)(
  "[LB15] a system call that fails at any moment loses nothing acknowledged: %s",
  { timeout: TEST_MS_MAX },
  async (backend, context) => {
    const missingReason = recordingMissing();
    if (missingReason !== undefined) return context.skip(missingReason);
    const court = new Court(backend);
    const counts: Record<string, number> = { faults: 0, acknowledged: 0 };
    for (const i of repetitions(FAULTS)) {
      const random = seededRandom(SEED + i);
      const its = CALLS[backend]!;
      const call = its[i % its.length]!;
      const error = random.pick(ERRORS);
      const location = join(folder, `fault-${i}`);
      // Only calls on the store: a failing `write` to standard output would be another story.
      const inject = `inject=${call}:error=${error}:when=${1 + random.int(reach(call))}`;
      const only = ["-P", location, ...filesOf(location)];
      const writers = await Writers.start(folder, {
        backend,
        location,
        callers: CALLERS,
        padding: 1000,
        through: ["strace", "-f", "-o", "/dev/null", ...only, "-e", `trace=${call}`, "-e", inject],
        env: { UV_THREADPOOL_SIZE: "1" },
      });
      await writers.until(250);
      const { told, failed, opened, ending } = await writers.end();
      counts.faults!++;
      counts[failed ?? (opened ? "none met" : "at open")] =
        (counts[failed ?? (opened ? "none met" : "at open")] ?? 0) + 1;
      for (const number of told.values()) counts.acknowledged! += number;
      const verdict = await court.judge({ location, told: [...told] });
      const what = `${inject}, ${ending}: ${verdict.why}\n${replay("failing-disk.test.ts", i)}`;
      expect.soft(verdict.kind, what).toBe("sound");
      rmSync(location, { recursive: true, force: true });
    }
    await court.close();
    // Else it was about nothing.
    const met = (counts.OUTCOME_UNKNOWN ?? 0) + (counts.UNAVAILABLE ?? 0);
    if (counts.faults! >= FAULTS) expect(met).toBeGreaterThan(counts.faults! / 5);
    note(`faults-${backend}`, counts);
    console.log(backend, JSON.stringify(counts));
  },
);

const DEVICE_ROUNDS = 1;
/** What callers are told. A file log also fails before anything is written, where it begins a segment. */
const FAILED: Readonly<Record<string, readonly string[]>> = {
  file: ["OUTCOME_UNKNOWN", "UNAVAILABLE"],
  level: ["OUTCOME_UNKNOWN"],
};

test.for(
  BACKENDS.flatMap((backend) => (["volatile", "failing"] as const).map((kind) => [backend, kind] as const)),
)(
  "[LB16] a device that loses its cache or fails for a while loses nothing acknowledged: %s, %s",
  { timeout: TEST_MS_MAX },
  async ([backend, kind], context) => {
    const missingReason = deviceMissing();
    if (missingReason !== undefined) return context.skip(missingReason);
    const court = new Court(backend);
    const counts = { rounds: 0, acknowledged: 0 };
    for (const i of repetitions(DEVICE_ROUNDS)) {
      const home = join(folder, `device-${kind}-${i}`);
      const device = await UserDevice.make(kind, home);
      try {
        const location = join(device.mountPoint, "store");
        const writers = await Writers.start(folder, { backend, location, callers: CALLERS, padding: 1000 });
        await writers.until(50 + seededRandom(SEED + i).int(100));
        if (kind === "failing") {
          device.fail(true);
          await writers.ended();
          device.fail(false);
        }
        const { told, failed } = await writers.end();
        expect(kind === "failing" ? FAILED[backend] : [undefined]).toContain(failed);
        await device.replug();
        const verdict = await court.judge({ location, told: [...told] });
        const what = `${kind}: ${verdict.why}\n${replay("failing-disk.test.ts", i)}`;
        expect.soft(verdict.kind, what).toBe("sound");
        counts.rounds++;
        for (const number of told.values()) counts.acknowledged += number;
      } finally {
        await device.remove();
        rmSync(home, { recursive: true, force: true });
      }
    }
    await court.close();
    expect(counts.acknowledged).toBeGreaterThan(counts.rounds * 40);
    note(`device-${backend}-${kind}`, counts);
  },
);

/** About how often one thread makes this call. */
function reach(call: string): number {
  return call.includes("write") ? 120 : call.includes("sync") ? 50 : 8;
}

/** strace follows paths that it is given: those that the engines will use first. */
function filesOf(location: string): string[] {
  const names = Array.from({ length: 40 }, (_, n) => String(n).padStart(6, "0"));
  const files = ["MANIFEST", "MANIFEST.next"];
  for (const name of names) {
    files.push(
      `${name}.log`,
      `${name}.ldb`,
      `${name}.dbtmp`,
      `MANIFEST-${name}`,
      `00${name}.seg`,
      `00${name}.hint`,
    );
  }
  return files.flatMap((name) => ["-P", join(location, name)]);
}
