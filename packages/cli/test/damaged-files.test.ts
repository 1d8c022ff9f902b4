/**
 * `coppice check` on stores whose LevelDB files are damaged: found in a child, listed around, never an
 * abort.
 */

import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { levelBackend } from "@coppice/level";
import { yjs } from "@coppice/yjs";
import { DocumentStorage, never } from "coppice";
import { afterEach, describe, expect, test, vi } from "vitest";
import { cleanUp, coppice, keystrokes, temporaryDirectory } from "./command.js";

vi.setConfig({ testTimeout: 120_000 });
afterEach(cleanUp);

/** A few blocks of meta. */
const DOCUMENTS = 160;

/** A store whose documents are in table files, not compressed, in several blocks. */
async function tables(compression = false): Promise<{ location: string; url: string; table: string }> {
  const location = join(await temporaryDirectory(), "data");
  for (let opening = 0; opening < 2; opening++) {
    const storage = await DocumentStorage.open({
      backend: levelBackend(location, { compression }),
      models: [yjs()],
      snapshotPolicy: never,
    });
    const ids = Array.from(
      { length: opening === 0 ? DOCUMENTS : 0 },
      (_, i) => `doc-${String(i).padStart(4, "0")}`,
    );
    await Promise.all(ids.map((id) => storage.append(id, keystrokes(`text of ${id}`))));
    await storage.close();
  }
  const name = (await readdir(location)).find((file) => file.endsWith(".ldb"))!;
  return { location, url: `level:${location}`, table: join(location, name) };
}

/** CRC-32C of one more byte, a bit at a time. */
function crcAfter(before: number, byte: number): number {
  let crc = before ^ byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
}

/** As LevelDB stores it. */
function masked(crc: number): number {
  return (((~crc >>> 15) | (~crc << 17)) + 0xa282ead8) >>> 0;
}

/** The length of the first block: the first at which the checksum behind it fits. */
function firstBlockEnd(table: Buffer): number {
  let crc = crcAfter(~0, table[0]!);
  for (let end = 1; ; end++) {
    crc = crcAfter(crc, table[end]!);
    if (table[end] === 0 && table.readUInt32LE(end + 1) === masked(crc)) return end;
  }
}

describe("check", () => {
  test("[LB6] damage inside a table is named, and everything that can be read is checked", async () => {
    const { url, table } = await tables();
    const bytes = await readFile(table);
    bytes[bytes.length >> 1]! ^= 0x20;
    await writeFile(table, bytes);
    const checked = await coppice(["check", "--json", "-s", url]);
    expect([checked.code, checked.stderr]).toEqual([5, ""]);
    const report = JSON.parse(checked.stdout);
    expect(report).toMatchObject({ clean: false });
    expect(report.files).toHaveLength(1);
    expect(report.files[0]).toMatchObject({ what: "a block does not check" });
    expect(report.documents).toBeGreaterThan(DOCUMENTS - 40);
    const plain = await coppice(["check", "-s", url]);
    expect(plain.code).toBe(5);
    expect(plain.stdout).toMatch(/^damaged {2}\d+\.ldb at byte \d+: a block does not check, keys after /m);
    // Every other command refuses the store, and says what to do.
    const listed = await coppice(["ls", "-s", url]);
    expect(listed.code).toBe(5);
    expect(listed.stderr).toContain("coppice check");
    expect(listed.stderr).toContain("coppice copy --damaged");
  });

  test("[LB6] a part that LevelDB cannot read is passed over from both ends", async () => {
    const { url, table } = await tables();
    const bytes = await readFile(table);
    // A key in a later block of meta that no backend writes, under a checksum that fits nothing.
    const at = bytes.lastIndexOf("meta\0doc-0") + 5;
    bytes[at] = 0xff;
    bytes[at + 1] = 0xff;
    await writeFile(table, bytes);
    const { code, stdout } = await coppice(["check", "--json", "-s", url]);
    expect(code).toBe(5);
    const report = JSON.parse(stdout);
    expect(report.documents).toBeGreaterThanOrEqual(DOCUMENTS - 40);
    expect(report.problems.length).toBeGreaterThan(0);
    const saved = `${url}-saved`;
    const copied = await coppice(["copy", "--damaged", "--json", url, saved]);
    expect([copied.code, copied.stderr]).toEqual([5, ""]);
    const copy = JSON.parse(copied.stdout);
    expect(copy.copied).toBeGreaterThanOrEqual(DOCUMENTS - 40);
    expect((await coppice(["check", "-s", saved])).code).toBe(0);
  });

  test("[LB9] copy --damaged names the damage, saves what can be read, and ends with 5", async () => {
    const { url, table } = await tables();
    const bytes = await readFile(table);
    // Within a block: of one whose checksum alone is damaged everything can be read, and nothing fails.
    bytes[(bytes.length >> 1) - 1024]! ^= 0x20;
    await writeFile(table, bytes);
    const saved = `${url}-saved`;
    expect((await coppice(["copy", url, saved])).code).toBe(5);
    const { code, stdout, stderr } = await coppice(["copy", "--damaged", url, saved, "--concurrency", "2"]);
    expect(code).toBe(5);
    expect(stderr).toMatch(/^damaged {2}\d+\.ldb at byte \d+: a block does not check, keys after /m);
    expect(stderr).toContain("the source is damaged, and the copy has what could be read");
    const [, copied] = /^\d+ ids: (\d+) copied, /.exec(stdout) ?? [];
    expect(Number(copied)).toBeGreaterThan(DOCUMENTS - 40);
    expect(stderr).toMatch(/^failed doc-\d+: /m);
    const checked = await coppice(["check", "-s", saved]);
    expect([checked.code, checked.stdout]).toEqual([0, expect.stringContaining(`ok ${copied} documents`)]);
    // Of a sound store it is a copy like others; a file log has its own repair.
    const whole = await coppice(["copy", "--damaged", saved, `${saved}-2`, "--prefix", "doc-000"]);
    expect([whole.code, whole.stderr]).toEqual([
      0,
      `note: there was no store at ${saved}-2; a new one was made\n`,
    ]);
    expect(whole.stdout).toMatch(/^10 ids: 10 copied/);
    const log = await coppice(["copy", "--damaged", "file:./log", saved]);
    expect([log.code, log.stderr]).toEqual([2, expect.stringContaining("check --repair")]);
  });

  test("[LB6] damage at the very start of a table is named, and everything else is checked", async () => {
    const { url, table } = await tables(true);
    const bytes = await readFile(table);
    // The length of the first block: elsewhere in it the damage may pass for other text.
    bytes.write("XXXX", 0);
    await writeFile(table, bytes);
    const one = `doc-${DOCUMENTS - 1}`.replace("doc-", "doc-0");
    for (const args of [[], ["--repair"], [one]]) {
      const { code, stdout, stderr } = await coppice(["check", "--json", ...args, "-s", url]);
      expect([code, stderr]).toEqual([5, ""]);
      const report = JSON.parse(stdout);
      expect(report.files).toMatchObject([{ offset: 0, what: expect.any(String) }]);
      expect(report.documents).toBe(args[0] === one ? 1 : DOCUMENTS);
      const unread = report.problems.map(({ code: problem, message }: { code: string; message: string }) => [
        problem,
        message.includes("erased ids"),
      ]);
      expect(unread).toContainEqual(["unreadable", true]);
    }
    const plain = await coppice(["check", "-s", url]);
    expect(plain.stdout).toMatch(/^damaged {2}\d+\.ldb at byte 0: /);
    expect(plain.stdout).toContain("restore a backup; or save what can be read with `coppice copy --damaged");
    const copied = await coppice(["copy", "--damaged", "--json", url, `${url}-saved`]);
    const copy = JSON.parse(copied.stdout);
    expect([copied.code, copy]).toMatchObject([5, { seen: DOCUMENTS, files: [{ offset: 0 }] }]);
    // Whether one of these was erased cannot be read.
    expect(copy.failures).toContainEqual({ id: "", code: "CORRUPT", message: expect.any(String) });
    expect(copy.copied + copy.failures.length).toBe(DOCUMENTS + 1);
  });

  test("[LB7] bytes over which LevelDB ends its process are a report and exit code 5", async () => {
    const { url, table } = await tables();
    const bytes = await readFile(table);
    const end = firstBlockEnd(bytes);
    // The first entry: no shared bytes, a key too short to hold a sequence number, and a longer value.
    const keyBytes = bytes[1]!;
    expect([bytes[0], keyBytes < 128, bytes[2]! < 100]).toEqual([0, true, true]);
    bytes[1] = 4;
    bytes[2] = bytes[2]! + keyBytes - 4;
    bytes.writeUInt32LE(masked(bytes.subarray(0, end + 1).reduce(crcAfter, ~0)), end + 1);
    await writeFile(table, bytes);
    const { code, stderr } = await coppice(["check", "-s", url]);
    expect(code).toBe(5);
    expect(stderr).toContain("LevelDB's own code ended the process that read the store (SIGABRT)");
    const json = await coppice(["check", "--json", "-s", url]);
    expect(json.code).toBe(5);
    expect(JSON.parse(json.stderr).error).toMatchObject({ code: "CORRUPT", kind: "corrupt" });
    const copied = await coppice(["copy", "--damaged", url, `${url}-saved`]);
    expect([copied.code, copied.stderr]).toEqual([5, expect.stringContaining("(SIGABRT)")]);
  });

  test("[LB7] a damaged log is a report, and is not opened", async () => {
    const { location, url } = await tables();
    const storage = await DocumentStorage.open({ backend: levelBackend(location), models: [yjs()] });
    for (let i = 0; i < 5; i++) await storage.append("more", keystrokes(`number ${i}`));
    await storage.close();
    const name = (await readdir(location)).find((file) => file.endsWith(".log"))!;
    const log = await readFile(join(location, name));
    log[100]! ^= 1;
    await writeFile(join(location, name), log);
    const before = await readdir(location);
    const { code, stderr } = await coppice(["check", "--repair", "-s", url]);
    expect(code).toBe(5);
    expect(stderr).toContain(`${name} at byte`);
    const copied = await coppice(["copy", "--damaged", url, `${url}-saved`]);
    expect([copied.code, copied.stderr]).toEqual([5, expect.stringContaining(`${name} at byte`)]);
    const listed = await coppice(["ls", "-s", url]);
    expect([listed.code, listed.stderr]).toEqual([5, expect.stringContaining("Restore a backup")]);
    expect(listed.stderr).not.toContain("coppice check");
    expect(await readdir(location)).toEqual(before);
  });
});
