import type { DocumentStorage } from "coppice";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import * as Y from "yjs";
import { parseMoment } from "../src/options.js";
import { cleanUp, coppice, jsonLines, keystrokes, makeStore, openStore, type TestStore } from "./command.js";

const events = keystrokes("hello, world");

async function fill(storage: DocumentStorage): Promise<void> {
  for (const [index, event] of events.entries()) {
    await storage.append("notes", [event], { info: { user: index % 2 === 0 ? "ada" : "grace\u001b[2J" } });
  }
}

let store: TestStore;

beforeAll(async () => {
  store = await makeStore(fill);
});
afterAll(cleanUp);

const on = (where: TestStore, ...args: string[]) => coppice([...args, "--store", where.url]);

describe("tags", () => {
  test("[CL25] tag, tags and untag do what the library does, and say so", async () => {
    const made = await on(store, "tag", "notes", "v1", "--at", "5");
    expect(made).toEqual({ code: 0, stdout: "tagged notes at clock 5 as v1\n", stderr: "" });
    const odd = "odd \u202e😀";
    const head = await on(store, "tag", "notes", odd, "--json");
    expect(JSON.parse(head.stdout)).toMatchObject({ name: odd, clock: 12 });
    expect(head.stdout).not.toContain("\u202e");
    expect((await on(store, "tag", "notes", "copy", "--at", "tag:v1")).stdout).toContain("at clock 5");
    expect((await on(store, "tag", "notes", "named", "--at", "v1")).stdout).toContain("at clock 5");
    const now = new Date().toISOString();
    expect((await on(store, "tag", "notes", "now", "--at", now)).stdout).toContain("at clock 12");
    const storage = await openStore(store.location);
    const known = JSON.parse(JSON.stringify(await storage.tags("notes"))) as object[];
    await storage.close();
    expect(jsonLines((await on(store, "tags", "notes", "--json")).stdout)).toEqual(known);
    const table = (await on(store, "tags", "notes")).stdout;
    expect(table).toMatch(/^name +clock +bytes +tagged$/m);
    expect(table).toMatch(/^v1 +5 +\d+ B +20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ$/m);
    expect(table).not.toContain("\u202e");
    for (const name of ["copy", "named", "now", odd]) {
      expect((await on(store, "untag", "notes", name)).code).toBe(0);
    }
    expect(JSON.parse((await on(store, "untag", "notes", "v1", "--json")).stdout)).toEqual({
      id: "notes",
      name: "v1",
      removed: true,
    });
    expect((await on(store, "tags", "notes")).stdout).toBe("");
    expect((await on(store, "check")).code).toBe(0);
  });

  test("[CL25] what is wrong with a tag has its exit code", async () => {
    await on(store, "tag", "notes", "taken");
    const cases: [code: number, said: RegExp, ...args: string[]][] = [
      [1, /has a tag of that name/, "tag", "notes", "taken"],
      [3, /"notes" has no tag "nothing"/, "tag", "notes", "x", "--at", "tag:nothing"],
      [2, /must be a string that is not empty/, "tag", "notes", ""],
      [2, /after the head/, "tag", "notes", "x", "--at", "99"],
      [2, /Write a date/, "tag", "notes", "x", "--at", "2026-13-77"],
      [3, /did not exist then/, "tag", "notes", "x", "--at", "2001-01-01"],
      [3, /there is no document/, "tag", "nobody", "x"],
      [3, /there is no document/, "tags", "nobody"],
      [3, /there is no document/, "untag", "nobody", "x"],
      [3, /has no tag/, "untag", "notes", "nothing"],
    ];
    for (const [code, said, ...args] of cases) {
      const outcome = await on(store, ...args);
      expect({ args, code: outcome.code, stdout: outcome.stdout }).toEqual({ args, code, stdout: "" });
      expect(outcome.stderr).toMatch(said);
    }
  });
});

test("[CL80] tag refuses a name that --at takes for something else, and tag:NAME is a tag in any case", async () => {
  const named = await makeStore(async (storage) => {
    await fill(storage);
    await storage.tag("notes", "4", 9);
    await storage.tag("notes", "2026-01-31", 8);
  });
  for (const name of [
    "4",
    "007",
    "99999999999999999999",
    "2026-01-31",
    "2026-01-31T18",
    "2026-13-77",
    "tag:v1",
  ]) {
    const { code, stdout, stderr } = await on(named, "tag", "notes", name, "--at", "3");
    expect({ name, code, stdout }).toEqual({ name, code: 2, stdout: "" });
    expect(stderr).toContain(`"${name}" is no name for a tag here`);
    expect(stderr).toContain("Choose another name, as in v4");
  }
  expect(jsonLines((await on(named, "tags", "notes", "--json")).stdout)).toHaveLength(2);
  for (const name of ["v4", "4th", "2026-01", "31/01"]) {
    expect({ name, ...(await on(named, "tag", "notes", name)) }).toMatchObject({ name, code: 0 });
  }
  expect((await on(named, "fork", "notes", "x", "--at", "4")).stdout).toContain("at clock 4");
  expect((await on(named, "fork", "notes", "y", "--at", "tag:4")).stdout).toContain("at clock 9");
  expect((await on(named, "fork", "notes", "z", "--at", "tag:2026-01-31")).stdout).toContain("at clock 8");
  for (const command of ["tag", "fork", "export"]) {
    expect((await coppice([command, "--help"])).stdout.replaceAll(/\s+/g, " ")).toContain("tag:NAME");
  }
  const unknown = await on(named, "fork", "notes", "w", "--at", "v5");
  expect(unknown).toMatchObject({ code: 3, stdout: "" });
  expect(unknown.stderr).toContain('"notes" has no tag "v5"');
  expect(unknown.stderr).not.toContain("a clock a number");
});

test("[CL173] a time that history prints is one for --at, and its version has the batch of that time", async () => {
  const timed = await makeStore(async (storage) => {
    for (const event of events.slice(0, 4)) {
      await storage.append("notes", [event]);
      await new Promise((resolve) => setTimeout(resolve, 3));
    }
  });
  const shown = (await on(timed, "history", "notes")).stdout;
  const times = [...shown.matchAll(/^batch .* (20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)\b/gm)].map(
    ([, time]) => time!,
  );
  expect(times).toHaveLength(4);
  for (const at of [times[1]!, times[1]!.replace("T", " "), times[1]!.replace("Z", "+00:00")])
    expect([at, (await on(timed, "show", "notes", "--at", at)).stdout]).toEqual([at, "he\n"]);
});

test("[CL174] --at refuses a time without a zone, and a date alone is its beginning in UTC", async () => {
  for (const at of ["2026-01-31T18:00:00", "2026-01-31 18:00", "2026-01-31T18:00:00.123"]) {
    const { code, stdout, stderr } = await on(store, "show", "notes", "--at", at);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(`Write its zone as well: ${at}Z is UTC`);
  }
  const ms = (text: string) => (parseMoment(text) as Date).getTime();
  expect(ms("2026-01-31")).toBe(Date.UTC(2026, 0, 31));
  expect(ms("2026-01-31T18:00:00+0200")).toBe(Date.UTC(2026, 0, 31, 16));
  // A month does not go on in the next one.
  for (const at of ["2026-02-31", "2026-02-29T10:00:00Z", "2026-11-31 10:00:00Z", "2026-02-31T10:00"])
    expect(() => parseMoment(at)).toThrow("Write a date as 2026-01-31");
  expect(ms("2028-02-29")).toBe(Date.UTC(2028, 1, 29));
  // Names, as before.
  for (const name of ["2026-01-31 release", "2026-01"]) expect(parseMoment(name)).toBe(name);
});

describe("the archive", () => {
  test("[CL26] compact --history archives, keeps or drops, and history, info and read show it", async () => {
    const archived = await makeStore(fill);
    const result = await on(archived, "compact", "notes", "--history", "archive");
    expect(result.stdout).toMatch(/trimmed 11 events \(\d+ B\) into the archive/);
    const info = JSON.parse((await on(archived, "info", "notes", "--json")).stdout) as object;
    expect(info).toMatchObject({ archivedClock: 0, oldestClock: 11 });
    expect((await on(archived, "info", "notes")).stdout).toMatch(/^archive {4}from clock 0 on, \d+ B$/m);
    await on(archived, "tag", "notes", "half", "--at", "6");
    const lines = jsonLines((await on(archived, "history", "notes", "--json")).stdout);
    expect(lines.map(({ kind }) => kind).filter((kind) => kind !== "batch")).toEqual([
      "archive",
      "tag",
      "snapshot",
      "snapshot",
    ]);
    expect(lines[0]).toMatchObject({ kind: "archive", clock: 0, end: 11 });
    expect(lines.find(({ kind }) => kind === "tag")).toMatchObject({ name: "half", clock: 6 });
    expect(lines.filter(({ kind }) => kind === "batch")).toHaveLength(12);
    expect(lines[1]).toMatchObject({ commitId: null, info: { user: "ada" } });
    const shown = (await on(archived, "history", "notes")).stdout;
    expect(shown).toMatch(/^tag +6 .* half$/m);
    expect(shown).not.toContain("\u001b");
    const read = jsonLines((await on(archived, "read", "notes")).stdout);
    expect(read.map(({ event }) => Buffer.from(String(event), "base64"))).toEqual(
      events.map((event) => Buffer.from(event)),
    );
    expect(read[1]).toMatchObject({ clock: 1, commitId: null, info: { user: "grace\u001b[2J" } });
    // Saying nothing goes on with the archive; another policy drops it.
    const all = await on(archived, "compact", "--all", "--force", "--json");
    expect(JSON.parse(all.stdout)).toMatchObject({ compacted: 1, eventsArchived: 0 });
    expect(jsonLines((await on(archived, "read", "notes")).stdout)).toHaveLength(12);
    const kept = await on(archived, "compact", "notes", "--history", "keep:1", "--json");
    expect(JSON.parse(kept.stdout)).toMatchObject({ documents: [{ outcome: "compacted" }] });
    expect(JSON.parse((await on(archived, "info", "notes", "--json")).stdout)).toMatchObject({
      archivedClock: null,
    });
    expect((await on(archived, "check")).code).toBe(0);
    for (const policy of ["keep", "keep:-1", "all", "keep:1e3"]) {
      const { code, stderr } = await on(archived, "compact", "notes", "--history", policy);
      expect({ policy, code }).toEqual({ policy, code: 2 });
      expect(stderr).toContain("Write drop, archive, or keep:<events>.");
    }
  });
});

test("[CL82] show prints what a document holds, now and as it was, of every model, and harmless for terminals", async () => {
  expect(await on(store, "show", "notes")).toEqual({ code: 0, stdout: "hello, world\n", stderr: "" });
  expect((await on(store, "show", "notes", "--at", "5")).stdout).toBe("hello\n");
  const [line] = jsonLines((await on(store, "show", "notes", "--at", "5", "--json")).stdout);
  const parts = [{ name: "text", kind: "text", text: "hello" }];
  expect(line).toMatchObject({ id: "notes", clock: 5, model: "yjs", parts });
  const many = await makeStore(async (storage) => {
    const doc = new Y.Doc();
    doc.getText("body").insert(0, "two\n\tlines\u001b[2J");
    doc.getMap("meta").set("title", "T");
    await storage.append("doc", [Y.encodeStateAsUpdate(doc)]);
  });
  const shown = (await on(many, "show", "doc")).stdout;
  expect(shown).toBe('body:\ntwo\n\tlines\\u001b[2J\nmeta:\n{\n  "title": "T"\n}\n');
  const missing = await on(store, "show", "nobody");
  expect([missing.code, missing.stderr]).toEqual([3, expect.stringContaining("there is no document")]);
  const early = await on(store, "show", "notes", "--at", "1999-01-01");
  expect([early.code, early.stderr]).toEqual([3, expect.stringContaining("did not exist then")]);
});
