/** The directory, the lock or the manifest of an open store is taken away, and another one put in its place. */

import { cpSync, readFileSync, renameSync, unlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { checkFileLog, fileLogBackend } from "@coppice/file";
import { type Backend, systemEnv } from "coppice";
import { afterEach, expect, test } from "vitest";
import { removeDirectories, temporaryDirectory } from "../../../test/support/stores.js";
import { nodeFiles } from "../src/files.js";

const OPTIONS = { segmentBytesMax: 64 * 1024 };
const VALUE_BYTES = 3000;

afterEach(removeDirectories);

/** Appends until the backend refuses, or `count` are stored; says how many are. */
async function append(backend: Backend, id: string, from: number, count: number): Promise<number> {
  for (let seq = from; seq < from + count; seq++) {
    const put = [{ key: ["events", id, seq] as const, value: new Uint8Array(VALUE_BYTES).fill(7) }];
    const error = await backend.commit({ put }).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    if (error === undefined) continue;
    expect(error).toMatchObject({ code: "UNAVAILABLE", cause: { code: "ESTALE" } });
    return seq - from;
  }
  return count;
}

test("[FL38] a store that was moved away writes and removes nothing in the one that took its place", async () => {
  const parent = await temporaryDirectory();
  const [place, aside] = [join(parent, "place"), join(parent, "aside")];
  const moved = await fileLogBackend(place, OPTIONS).open(systemEnv());
  await append(moved, "first", 0, 30);
  renameSync(place, aside);
  cpSync(aside, place, { recursive: true });
  const factory = fileLogBackend(place, OPTIONS);
  const next = await factory.open(systemEnv());
  await append(next, "next", 0, 5);
  expect(await append(moved, "late", 0, 200)).toBeLessThan(60);
  await moved.close().catch(() => undefined);
  expect(await append(next, "next", 5, 100)).toBe(100);
  await next.close();
  expect((await checkFileLog(place)).damage).toEqual([]);
  const again = await factory.open(systemEnv());
  for (let seq = 0; seq < 105; seq++)
    expect(await again.get(["events", "next", seq])).toHaveLength(VALUE_BYTES);
  await again.close();
});

test("[FL38] a writer whose lock was removed makes no further segment, and nobody writes to the one it has", async () => {
  const place = join(await temporaryDirectory(), "place");
  const writer = await fileLogBackend(place, OPTIONS).open(systemEnv());
  await append(writer, "first", 0, 5);
  unlinkSync(join(place, "LOCK"));
  // Where one lock is on the whole file, readers of segments would be locked out as well.
  const isLocked = process.platform === "linux";
  if (isLocked) {
    const second = fileLogBackend(place, OPTIONS).open(systemEnv());
    await expect(second).rejects.toMatchObject({
      code: "LOCKED",
      message: expect.stringContaining("removed"),
    });
    const manifest = readFileSync(join(place, "MANIFEST"));
    writeFileSync(join(place, "MANIFEST"), "damaged");
    const repair = checkFileLog(place, { ...OPTIONS, repair: true });
    await expect(repair).rejects.toMatchObject({ code: "LOCKED" });
    writeFileSync(join(place, "MANIFEST"), manifest);
  }
  expect(await append(writer, "first", 5, 200)).toBeLessThan(60);
  await writer.close().catch(() => undefined);
  const again = await fileLogBackend(place, OPTIONS).open(systemEnv());
  expect(await again.get(["events", "first", 5])).toHaveLength(VALUE_BYTES);
  await again.close();
});

test("[FL13] a manifest that was replaced twice within a tick of the clock is another one", async () => {
  const place = await temporaryDirectory();
  const files = await nodeFiles(place, false)(false);
  const seen: (string | undefined)[] = [];
  for (let i = 0; i < 20; i++) {
    writeFileSync(join(place, "next"), `manifest ${i}`);
    utimesSync(join(place, "next"), 1000, 1000);
    renameSync(join(place, "next"), join(place, "MANIFEST"));
    seen.push(files.identityOf("MANIFEST"));
    expect(files.identityOf("MANIFEST")).toBe(seen[i]);
    expect(seen.slice(Math.max(0, i - 3), i)).not.toContain(seen[i]);
  }
  files.close();
});
