import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileLogBackend } from "@coppice/file";
import { levelBackend } from "@coppice/level";
import { yjs } from "@coppice/yjs";
import { DocumentStorage, systemEnv, toHex, tree } from "coppice";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  cleanUp,
  coppice,
  damage,
  jsonLines,
  keystrokes,
  makeStore,
  openStore,
  removeKeys,
  type TestStore,
  temporaryDirectory,
} from "./command.js";

const ODD = "odd \u001b[31m/\u202e..\n\"'é漢🌱";
const events = keystrokes("hello");

async function fill(storage: DocumentStorage): Promise<void> {
  await storage.append("notes/a", events.slice(0, 3), { info: { user: "ada\u001b[2J" } });
  await storage.append("notes/a", events.slice(3));
  await storage.append("notes/b", events);
  await storage.append(ODD, events);
  await storage.append("deleted", events);
  await storage.delete("deleted");
}

let store: TestStore;
let empty: TestStore;

beforeAll(async () => {
  [store, empty] = await Promise.all([makeStore(fill), makeStore()]);
});
afterAll(cleanUp);

const on = (where: TestStore, ...args: string[]) => coppice([...args, "--store", where.url]);

describe("looking", () => {
  test("[CL11] ls lists the ids in order, by prefix, after an id, and up to a limit", async () => {
    expect(await on(store, "ls")).toEqual({
      code: 0,
      stdout: "notes/a\nnotes/b\nodd \\u001b[31m/\\u202e..\\u000a\"'é漢🌱\n",
      stderr: "",
    });
    const some = ["ls", "--prefix", "notes/", "--after", "notes/a", "--json"];
    expect(jsonLines((await on(store, ...some)).stdout)).toEqual([{ id: "notes/b" }]);
    expect((await on(store, "ls", "--limit", "1")).stdout).toBe("notes/a\n");
  });

  test("[CL4] an id with control characters is exact in JSON, and every command takes it back", async () => {
    const listed = await on(store, "ls", "--json", "--prefix", "odd");
    expect(listed.stdout).not.toContain("\u001b");
    expect(jsonLines(listed.stdout)).toEqual([{ id: ODD }]);
    const info = await on(store, "info", ODD);
    expect(info.code).toBe(0);
    expect(info.stdout).not.toContain("\u001b");
    const missing = await on(store, "info", `${ODD}?`);
    expect(missing.code).toBe(3);
    expect(missing.stderr).not.toContain("\u001b");
  });

  test("[CL11] ls --long and info say what the library says", async () => {
    const storage = await openStore(store.location);
    const known = (await storage.info("notes/a", { usage: true }))!;
    await storage.close();
    const facts = JSON.parse(JSON.stringify(known)) as object;
    const [first] = jsonLines((await on(store, "ls", "--long", "--json")).stdout);
    expect(first).toMatchObject(facts);
    expect(JSON.parse((await on(store, "info", "notes/a", "--json")).stdout)).toMatchObject({
      ...facts,
      snapshotClock: null,
    });
    const table = (await on(store, "ls", "--long", "--prefix", "notes")).stdout.split("\n");
    expect(table[0]).toMatch(/^id +model +clock +to replay +log +snapshots +stored +changed$/);
    expect(table[1]).toMatch(/^notes\/a +yjs +5 +5 +(\d+ B) +- +\1 +20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ$/);
    expect(table[1]?.length).toBe(table[2]?.length);
    const pairs = (await on(store, "info", "notes/a")).stdout;
    expect(pairs).toMatch(/^id {9}notes\/a$/m);
    expect(pairs).toMatch(/^snapshot {3}none$/m);
  });

  test("[CL167] ls --largest and info tell what a document takes, beside what was ever written to it", async () => {
    const many = await makeStore(async (storage) => {
      for (let size = 1; size <= 4; size++)
        await storage.append(`size-${size}`, keystrokes("x".repeat(size)));
      const edits = keystrokes("y".repeat(300));
      for (const id of ["tagged", "held"]) await storage.append(id, edits);
      await storage.tag("tagged", "v1");
      // What waits for the first half is kept beside the snapshot.
      await storage.append("waits", edits.slice(150));
      await storage.compactAll({ force: true });
      // The events before the older of two snapshots are trimmed.
      for (const id of ["tagged", "held", "waits"]) await storage.append(id, edits.slice(0, 1));
      await storage.compactAll({ force: true });
    });
    const [first, ...others] = jsonLines((await on(many, "ls", "--largest", "3", "--json")).stdout) as {
      id: string;
      logBytes: number;
      usage: { storedBytes: number; retainedBytes: number; tags: number; heldEvents: number };
    }[];
    const sizes = [first!, ...others].map(({ usage }) => usage.storedBytes);
    expect([first!.id, sizes]).toEqual(["waits", [...sizes].sort((a, b) => b - a)]);
    expect(first!.usage.heldEvents).toBe(150);
    expect(first!.usage.retainedBytes).toBeLessThan(first!.logBytes);
    expect((await on(many, "ls", "--largest", "2")).stdout.split("\n").slice(1)).toEqual([
      expect.stringMatching(/^waits /),
      expect.stringMatching(/^tagged /),
      "",
    ]);
    const told = async (id: string) => (await on(many, "info", id)).stdout;
    expect(await told("waits")).toMatch(/^held +150 events not shown, \d/m);
    expect(await told("tagged")).toMatch(/^tags +1, \d/m);
    expect(await told("tagged")).toMatch(/^log +\S+ \S+ kept, of \S+ KiB ever written$/m);
    expect(await told("size-1")).not.toMatch(/^(?:held|tags)/m);
  });

  test("[CL167] where a record that says so is damaged the rest is told, and the code says that it is", async () => {
    const location = join(await temporaryDirectory(), "damaged");
    const backend = levelBackend(location);
    const storage = await DocumentStorage.open({ backend, models: [yjs()] });
    await storage.append("d", keystrokes("hello"));
    await storage.tag("d", "v1");
    await storage.close();
    const raw = await levelBackend(location).open(systemEnv());
    const tags = (await raw.get(["tags", "d"]))!;
    await raw.commit({ put: [{ key: ["tags", "d"], value: tags.slice().fill(7, 9, 10) }] });
    await raw.close();
    const store = { location, url: `level:${location}` };
    const [info, long] = [await on(store, "info", "d"), await on(store, "ls", "--long")];
    expect([info.code, long.code]).toEqual([5, 5]);
    expect(info.stdout).toMatch(/^clock +5 /m);
    expect(info.stdout).toMatch(/^stored +damaged; run coppice check$/m);
    expect(long.stdout).toMatch(/^d +yjs +5 +5 +damaged +- +damaged +20/m);
  });

  test("[CL11] read prints the events of a range as JSON lines, with the very bytes that were appended", async () => {
    const { code, stdout } = await on(store, "read", "notes/a", "--from", "1", "--to", "4");
    expect(code).toBe(0);
    const lines = jsonLines(stdout);
    expect(lines.map(({ clock }) => clock)).toEqual([1, 2, 3]);
    for (const { clock, event, commitId, time } of lines) {
      expect(Buffer.from(String(event), "base64")).toEqual(Buffer.from(events[Number(clock)]!));
      expect(commitId).toMatch(/^[0-9a-f]{32}$/);
      expect(typeof time).toBe("number");
    }
    expect((await on(store, "read", "notes/a", "--json")).stdout.split("\n")).toHaveLength(6);
  });

  test("[CL74] read says when there can be no such events, and prints none at the very end", async () => {
    for (const range of [
      ["--from", "99"],
      ["--from", "3", "--to", "2"],
    ]) {
      const { code, stdout, stderr } = await on(store, "read", "notes/a", ...range);
      expect([code, stdout]).toEqual([2, ""]);
      expect(stderr).toContain("there are no such events");
    }
    expect(await on(store, "read", "notes/a", "--from", "5")).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  test("[CL11] the events of a tree are read as they are, and its log is compacted and checked", async () => {
    const location = join(await temporaryDirectory(), "data");
    const storage = await DocumentStorage.open({ backend: levelBackend(location), models: [tree()] });
    const board = await storage.open("board");
    board.change((doc) => doc.fromData([{ id: "a", children: [{ id: "b" }] }]));
    await board.save();
    board.change((doc) => doc.update("b", { title: "B" }));
    await board.save();
    await storage.close();
    const trees = { location, url: `level:${location}` };
    const lines = jsonLines((await on(trees, "read", "board")).stdout);
    expect(lines.map(({ event }) => event)).toMatchObject([
      { sequence: 0, payload: { op: "put", id: "a" } },
      { sequence: 1, payload: { op: "put", id: "b", parent: "a" } },
      { sequence: 2, payload: { op: "update", id: "b", set: { title: "B" } } },
    ]);
    expect((await on(trees, "compact", "board")).code).toBe(0);
    expect((await on(trees, "check")).code).toBe(0);
  });

  test("[CL11] history lists batches with who wrote them, and snapshots", async () => {
    const changed = await makeStore(async (storage) => {
      await fill(storage);
      await storage.compact("notes/a");
    });
    const storage = await openStore(changed.location);
    const known = [];
    for await (const entry of storage.history("notes/a")) known.push(entry);
    await storage.close();
    const lines = jsonLines((await on(changed, "history", "notes/a", "--json")).stdout);
    expect(lines).toHaveLength(known.length);
    expect(lines.map(({ kind }) => kind)).toContain("snapshot");
    known.forEach((entry, index) => {
      expect(lines[index]).toMatchObject({ kind: entry.kind, clock: entry.clock, bytes: entry.bytes });
      if (entry.kind === "batch") expect(lines[index]?.commitId).toBe(toHex(entry.commitId!));
    });
    const shown = (await on(store, "history", "notes/a")).stdout;
    expect(shown).toMatch(/^batch +0 +3 +3 /m);
    expect(shown).toContain('{"user":"ada\\u001b[2J"}');
    expect(shown).not.toContain("\u001b");
  });

  test("[CL2] an empty store has nothing to show, and that is no failure", async () => {
    for (const args of [["ls"], ["ls", "--long"]]) {
      expect(await on(empty, ...args)).toEqual({ code: 0, stdout: "", stderr: "no documents\n" });
    }
    expect((await on(store, "ls", "--prefix", "nobody")).stderr).toBe("no such documents\n");
    expect((await on(store, "ls", "--prefix", "notes/")).stderr).toBe("");
    expect(await on(empty, "ls", "--json")).toEqual({ code: 0, stdout: "", stderr: "" });
    expect(await on(empty, "ls", "--long", "--json")).toEqual({ code: 0, stdout: "", stderr: "" });
    expect((await on(empty, "check")).stdout).toBe("ok 0 documents, 0 events\n");
    expect(JSON.parse((await on(empty, "compact", "--all", "--json")).stdout)).toMatchObject({ seen: 0 });
  });

  test("[CL2] a store that is not there is not made: exit code 3", async () => {
    const folder = await temporaryDirectory();
    const url = `level:${join(folder, "nothing")}`;
    for (const args of [["ls"], ["info", "x"], ["compact", "--all"], ["check"], ["rm", "x", "--yes"]]) {
      const { code, stdout, stderr } = await coppice([...args, "--store", url]);
      expect({ args, code, stdout }).toEqual({ args, code: 3, stdout: "" });
      expect(stderr).toMatch(/^coppice: there is no store at /);
    }
    await expect(readFile(join(folder, "nothing"))).rejects.toMatchObject({ code: "ENOENT" });
  });

  test("[CL27] a directory of the other kind of store is named as what it is, and nothing is made in it", async () => {
    const folder = await temporaryDirectory();
    const [level, file] = [join(folder, "level"), join(folder, "file")];
    for (const backend of [levelBackend(level), fileLogBackend(file)]) {
      const storage = await DocumentStorage.open({ backend, models: [tree()] });
      await storage.append("d", [], {}).catch(() => undefined);
      await storage.close();
    }
    for (const [path, wrong, right] of [
      [level, "file", "level"],
      [file, "level", "file"],
    ] as const) {
      const before = (await readdir(path)).sort();
      const commands = [["ls"], ["check"], ["check", "--repair"], ["dump"], ["import", "document", "-"]];
      if (wrong === "file") commands.push(["frames"]);
      for (const args of [...commands, ["serve", "--port", "0"], ["start", "--port", "0"]]) {
        const { code, stderr } = await coppice([...args, "--store", `${wrong}:${path}`]);
        expect({ args, code, right: stderr.includes(`Name it ${right}:${path}`) }).toEqual({
          args,
          code: 2,
          right: true,
        });
      }
      expect((await readdir(path)).sort()).toEqual(before);
    }
    // And so the library says, whoever opens it.
    for (const [backend, other] of [
      [fileLogBackend(level), "levelBackend"],
      [levelBackend(file), "fileLogBackend"],
    ] as const) {
      const opening = DocumentStorage.open({ backend, models: [tree()] });
      await expect(opening).rejects.toMatchObject({
        code: "UNAVAILABLE",
        message: expect.stringContaining(other),
      });
    }
    expect((await readdir(file)).filter((name) => name === "CURRENT")).toEqual([]);
    expect((await readdir(level)).filter((name) => name === "MANIFEST")).toEqual([]);
  });

  test("[CL2] memory: says that it is empty, and COPPICE_STORE names the default store", async () => {
    const memory = await coppice(["ls", "--store", "memory:"]);
    expect(memory).toMatchObject({ code: 0, stdout: "" });
    const note = "note: memory: is a store of this process alone, new and empty\n";
    expect(memory.stderr).toBe(`${note}no documents\n`);
    const named = await coppice(["ls", "--limit", "1"], { env: { COPPICE_STORE: store.url } });
    expect(named.stdout).toBe("notes/a\n");
    const cwd = join(store.location, "..");
    for (const env of [{}, { COPPICE_STORE: "" }])
      expect((await coppice(["ls", "--limit", "1"], { cwd, env })).stdout).toBe("notes/a\n");
    expect((await coppice(["ls", "--store", ""], { cwd })).code).toBe(2);
  });
});

describe("failures", () => {
  test("[CL1] a document that does not exist, or was deleted, is exit code 3", async () => {
    for (const args of [
      ["info", "nobody"],
      ["info", "deleted"],
      ["read", "nobody"],
      ["history", "nobody"],
      ["compact", "nobody"],
      ["check", "nobody"],
      ["rm", "nobody", "--yes"],
    ]) {
      const { code, stderr, stdout } = await on(store, ...args);
      expect({ args, code, stdout }).toEqual({ args, code: 3, stdout: "" });
      expect(stderr.split("\n")[0]).toBe(`coppice: there is no document "${args[1]}"`);
    }
  });

  test("[CL153] an id that may be meant for a store is told where stores go", async () => {
    const told = "`coppice ls` lists those that there are. A store goes behind --store, as in";
    for (const id of [store.location, `level:${store.location}`])
      expect((await on(store, "check", id)).stderr.split("\n")[1]).toContain(told);
    for (const id of ["x".repeat(500), "a\u0001b", join(store.location, "CURRENT")])
      expect((await on(store, "info", id)).stderr.split("\n")[1]).toBe(told.split(" A store")[0]);
  });

  test("[CL3] with --json an error is one JSON object on stderr, for usage errors too", async () => {
    const missing = await on(store, "info", "nobody", "--json");
    expect(missing.stdout).toBe("");
    expect(JSON.parse(missing.stderr)).toEqual({
      error: {
        code: "NOT_FOUND",
        kind: "not-found",
        message: 'there is no document "nobody"',
        details: { id: "nobody" },
        hint: "`coppice ls` lists those that there are.",
      },
      time: expect.stringMatching(/^20\d\d-\d\d-\d\dT[\d:.]+Z$/),
    });
    const wrong = await coppice(["ls", "--limit", "some", "--json"]);
    expect(wrong.code).toBe(2);
    expect(JSON.parse(wrong.stderr)).toMatchObject({
      error: { code: "USAGE", kind: "invalid", hint: expect.stringContaining("--help") },
    });
    const directory = await coppice(["import", "y-leveldb", join(store.location, "none"), "--json"]);
    expect(JSON.parse(directory.stderr).error).toMatchObject({
      code: "NOT_FOUND",
      hint: expect.stringContaining("CURRENT"),
    });
    const invalid = await on(store, "info", "", "--json");
    expect(invalid.code).toBe(2);
    expect(JSON.parse(invalid.stderr)).toMatchObject({ error: { code: "ID_INVALID", kind: "invalid" } });
  });

  test("[CL17] a wrong command line is exit code 2 and says what would be right", async () => {
    const wrong: [string[], RegExp][] = [
      [[], /^Usage: coppice /],
      [["--json"], /./],
      [["lss"], /unknown command 'lss'\n\(Did you mean ls\?\)/],
      [["ls", "--lmit", "1"], /unknown option '--lmit'\n\(Did you mean --limit\?\)/],
      [["show", "-1StGXR8"], /unknown option '-1StGXR8'\n.*An id that begins with - goes behind --/],
      [["help", "nope"], /there is no command nope\ncoppice --help lists them/],
      [["info"], /missing required argument 'id'\ncoppice info --help says more/],
      [["import", "y-leveldb"], /\ncoppice import y-leveldb --help says more/],
      [["--jsn"], /\ncoppice --help says more\.\n$/],
      [["compact"], /either ids or --all/],
      [["compact", "a", "--all"], /either ids or --all/],
      [["compact", "a", "--min-events", "3"], /--min-events belongs to --all/],
      [["compact", "--all", "--idle", "10"], /Write a number with its unit/],
      [["ls", "--store", "./data"], /this is no store: ".\/data"\nA store is level:/],
      [["ls", "--store", "level:~/data"], /leaves ~ as it is after level:\nWrite level:"\$HOME"\/data, or/],
      [["conformance", "redis:"], /this is no store/],
      [["--store", "level:./x", "ls"], /Options go behind the command: coppice ls --json/],
      [["delete", "a"], /unknown command 'delete'\n`coppice rm` removes documents/],
      [["serve", "--min-events", "3"], /--min-events belongs to --compact-every/],
      [["rm", "a", "--json"], /rm does not ask with --json; nothing was removed.*Say --yes/],
    ];
    const outcomes = await Promise.all(wrong.map(([args]) => coppice(args)));
    outcomes.forEach(({ code, stdout, stderr }, index) => {
      expect({ args: wrong[index]![0], code, stdout }).toEqual({
        args: wrong[index]![0],
        code: 2,
        stdout: "",
      });
      expect(stderr).toMatch(wrong[index]![1]);
    });
  });

  test("[CL18] a failure has one message and one line, and a stack only with COPPICE_DEBUG=1", async () => {
    const args = ["read", "notes/a", "--from", "4", "--store", store.url];
    expect((await coppice(args)).code).toBe(0);
    const gone = ["info", "nobody", "--store", store.url];
    expect((await coppice(gone)).stderr.trimEnd().split("\n")).toHaveLength(2);
    const debugged = await coppice(gone, { env: { COPPICE_DEBUG: "1" } });
    expect(debugged.stderr).toMatch(/\n {4}at /);
  });

  test("[CL21] damaged bytes are exit code 5, and check counts them as problems", async () => {
    const broken = await makeStore(fill);
    await damage(broken.location, "notes/b");
    const read = await on(broken, "read", "notes/b");
    expect(read.code).toBe(5);
    expect(read.stderr).toMatch(/\nRun `coppice check`/);
    const listed = await on(broken, "ls", "--long");
    expect(listed.code).toBe(5);
    expect(listed.stdout).toMatch(/^notes\/a +yjs/m);
    expect(listed.stdout).toMatch(/^notes\/b +damaged .*run coppice check$/m);
    expect((await on(broken, "compact", "--all")).code).toBe(5);
    const checked = await on(broken, "check");
    expect(checked.code).toBe(1);
    expect(checked.stdout).toMatch(/^problem {2}notes\/b: batch-damaged: /m);
    const report = JSON.parse((await on(broken, "check", "notes/b", "--json")).stdout);
    expect(report).toMatchObject({ documents: 1, clean: false });
    expect((await on(broken, "check", "notes/a")).code).toBe(0);
  });

  test("[CL21] a store that has lost CURRENT is damaged, not absent, and is left as it is", async () => {
    const broken = await makeStore(fill);
    const { rm, readdir } = await import("node:fs/promises");
    await rm(join(broken.location, "CURRENT"));
    const before = await readdir(broken.location);
    const { code, stderr } = await on(broken, "check", "--repair");
    expect(code).toBe(5);
    expect(stderr).toContain("has lost its file CURRENT");
    expect(await readdir(broken.location)).toEqual(before);
  });
});

describe("changing", () => {
  test("[CL12] compact says what it did, and again that there is nothing to do", async () => {
    const { url } = await makeStore(fill);
    const dry = await coppice(["compact", "notes/a", "--dry-run", "-s", url]);
    expect(dry.stdout).toMatch(/^notes\/a: would snapshot at clock 5 and trim 3 events/);
    const done = JSON.parse((await coppice(["compact", "notes/a", "--json", "-s", url])).stdout);
    expect(done).toMatchObject({ dryRun: false, documents: [{ id: "notes/a", clock: 5, eventsTrimmed: 3 }] });
    expect((await coppice(["compact", "notes/a", "-s", url])).stdout).toBe("notes/a: nothing to do\n");
    const trimmed = await coppice(["read", "notes/a", "--from", "0", "-s", url]);
    expect(trimmed.code).toBe(1);
    expect(trimmed.stderr).toContain("`coppice info` shows the oldest clock");
    const several = await coppice(["compact", "notes/b", "nobody", "-s", url]);
    expect(several.code).toBe(3);
    expect(several.stdout).toMatch(/^notes\/b: snapshot at clock 5 .*\n$/);
    expect(several.stderr).toBe("nobody: there is no such document\n");
  });

  test("[CL12] compact --all passes over what the thresholds exclude", async () => {
    const { url } = await makeStore(fill);
    const run = async (...args: string[]) =>
      JSON.parse((await coppice(["compact", "--all", "--json", "-s", url, ...args])).stdout);
    expect(await run("--dry-run")).toMatchObject({ seen: 3, compacted: 3, dryRun: true });
    expect(await run("--min-events", "6")).toMatchObject({ seen: 3, compacted: 0 });
    expect(await run("--idle", "1h")).toMatchObject({ seen: 3, compacted: 0 });
    expect(await run("--prefix", "notes/")).toMatchObject({ seen: 2, compacted: 2, failures: [] });
    const rest = await coppice(["compact", "--all", "-s", url]);
    expect(rest.stdout).toMatch(/^compacted 1 of 3 documents, trimmed /);
    expect(rest.stderr).toBe("");
  });

  test("[CL165] the JSON line of compact --all says when it ended and of which store, for a log of many", async () => {
    const { url } = await makeStore(fill);
    const { stdout } = await coppice(["compact", "--all", "--json", "-s", url]);
    const { time, store: of, durationMs } = JSON.parse(stdout);
    expect([of, new Date(time).toISOString()]).toEqual([url, time]);
    expect(Math.abs(Date.now() - Date.parse(time))).toBeLessThan(60_000);
    expect(stdout).toMatch(/"durationMs":\d+(?:\.\d{1,3})?[,}]/);
    expect(durationMs).toBeGreaterThan(0);
    const one = await coppice(["compact", "notes/a", "--force", "--json", "-s", url]);
    expect(one.stdout).toMatch(/"durationMs":\d+(?:\.\d{1,3})?[,}]/);
    const copied = await coppice(["copy", url, `${url}-copy`, "--json"]);
    expect(copied.stdout).toMatch(/"durationMs":\d+(?:\.\d{1,3})?[,}]/);
  });

  test("[CL13] check --repair sets damaged bytes aside, and then the store is sound", async () => {
    const broken = await makeStore(fill);
    await damage(broken.location, "notes/b");
    const repaired = await on(broken, "check", "--repair");
    expect(repaired.stdout).toMatch(/^repaired notes\/b: batch-damaged: .*$/m);
    expect(repaired.stdout).toMatch(/^sound again, with losses: .*, 5 events lost/m);
    expect(repaired.stdout).toContain("compare with a backup");
    expect(repaired.code).toBe(1);
    const again = await on(broken, "check", "--json");
    expect(again.code).toBe(0);
    expect(JSON.parse(again.stdout)).toMatchObject({
      clean: true,
      problems: [],
      lost: [{ id: "notes/b", events: 5 }],
    });
    expect(JSON.parse(again.stdout).quarantined).toBeGreaterThan(0);
  });

  test("[CL179] a document of which nothing is left to load can be removed, and check says so", async () => {
    const broken = await makeStore(fill);
    expect((await on(broken, "compact", "--all")).code).toBe(0);
    for (const space of ["events", "snapshot"])
      for (const id of ["notes/a", "notes/b"]) await damage(broken.location, id, space);
    const checked = await on(broken, "check", "--repair");
    expect([checked.code, checked.stdout]).toEqual([
      1,
      expect.stringContaining("`coppice rm`, `coppice erase`"),
    ]);
    expect((await on(broken, "rm", "notes/a", "--yes")).stdout).toBe("removed notes/a\n");
    expect((await on(broken, "erase", "notes/b", "--yes")).code).toBe(0);
    const again = await on(broken, "check");
    expect([again.code, again.stdout]).toEqual([0, expect.not.stringContaining("notes/a")]);
  });

  test("[CL179] so can one of which only a rest is left, with neither meta nor log", async () => {
    const broken = await makeStore(fill);
    expect((await on(broken, "compact", "--all")).code).toBe(0);
    await damage(broken.location, "notes/a", "snapshot");
    for (const space of ["events", "meta"]) await removeKeys(broken.location, { space, id: "notes/a" });
    expect((await on(broken, "check", "--repair")).stdout).toContain("notes/a: meta-missing");
    expect((await on(broken, "rm", "notes/a", "--yes")).stdout).toBe("removed notes/a\n");
    expect((await on(broken, "check")).code).toBe(0);
    expect((await on(broken, "rm", "notes/a", "--yes")).code).toBe(3);
  });

  test("[CL10] rm without a terminal wants --yes, and removes all of what it is told or nothing", async () => {
    const { url } = await makeStore(fill);
    const unasked = await coppice(["rm", "notes/a", "-s", url]);
    expect(unasked.code).toBe(2);
    expect(unasked.stderr).toContain("Say --yes");
    expect((await coppice(["rm", "notes/a", "nobody", "--yes", "-s", url])).code).toBe(3);
    expect((await coppice(["info", "notes/a", "-s", url])).code).toBe(0);
    const removed = await coppice(["rm", "notes/a", "notes/b", "--yes", "--json", "-s", url]);
    expect(JSON.parse(removed.stdout)).toEqual({ removed: ["notes/a", "notes/b"], metas: [] });
    expect((await coppice(["rm", ODD, "--yes", "-s", url])).stdout).toMatch(/^removed odd \\u001b/);
    expect((await coppice(["ls", "-s", url])).stdout).toBe("");
  });
});

describe("the command itself", () => {
  test("[CL1] --help has the exit codes and examples, of the whole and of each command", async () => {
    const help = await coppice(["--help"]);
    expect(help.code).toBe(0);
    for (const code of [0, 1, 2, 3, 4, 5, 6, 130])
      expect(help.stdout).toMatch(new RegExp(`^ {2}${code} {2,}\\w`, "m"));
    expect(help.stdout).not.toContain("replay-writer");
    const names = [...help.stdout.matchAll(/^ {2}([a-z]+) \[options\]/gm)].map(([, name]) => name!);
    expect(names).toEqual([
      "ls",
      "info",
      "show",
      "read",
      "history",
      "tag",
      "tags",
      "untag",
      "frames",
      "graph",
      "compact",
      "check",
      "rm",
      "fork",
      "erase",
      "export",
      "copy",
      "dump",
      "serve",
      "start",
      "replay",
      "conformance",
    ]);
    for (const { code, stdout } of await Promise.all(names.map((name) => coppice([name, "--help"])))) {
      expect(code).toBe(0);
      expect(stdout).toMatch(/\nExamples:\n {2}coppice /);
      expect(stdout).toContain("--json");
    }
  });

  test("[CL19] --version prints the version of the package", async () => {
    const manifest = JSON.parse(await readFile(new URL("../package.json", import.meta.url), "utf8"));
    expect((await coppice(["--version"])).stdout).toBe(`${manifest.version}\n`);
  });

  test("[CL14] conformance reports every case of a backend once, and leaves no store behind", async () => {
    const { backendCases } = await import("coppice/conformance");
    const memory = await coppice(["conformance", "memory:", "--json"]);
    expect(memory.code).toBe(0);
    const report = JSON.parse(memory.stdout);
    expect(report).toMatchObject({ subject: "memory", failed: 0 });
    expect(report.results).toHaveLength(backendCases.length);
    const folder = await temporaryDirectory();
    const level = await coppice(["conformance", `level:${folder}`]);
    expect(level.stdout.split("\n").filter((line) => line.startsWith("failed"))).toEqual([]);
    expect(level).toMatchObject({ code: 0, stderr: "" });
    expect(level.stdout).toMatch(/^level: \d+ passed, 0 failed, \d+ skipped$/m);
    expect(level.stdout.trimEnd().split("\n")).toHaveLength(backendCases.length + 1);
    const { readdir } = await import("node:fs/promises");
    expect(await readdir(folder)).toEqual([]);
  }, 300_000);
});
