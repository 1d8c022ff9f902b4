import { execFileSync, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { lstat, mkdir, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { AutomergeRepoStorage } from "@coppice/automerge";
import { levelBackend } from "@coppice/level";
import { LIMITS, systemEnv } from "coppice";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { filesHolding } from "../../../test/support/files.js";
import {
  cleanUp,
  coppice,
  damage,
  jsonLines,
  keystrokes,
  makeNewer,
  makeStore,
  openStore,
  type TestStore,
  temporaryDirectory,
} from "./command.js";

const events = keystrokes("hello");
let store: TestStore;

beforeAll(async () => {
  store = await makeStore(async (storage) => {
    for (const id of ["a", "b", "c"]) await storage.append(id, events);
    await storage.tag("a", "first");
    await storage.append("gone", events);
    await storage.delete("gone");
  });
});
afterAll(cleanUp);

const on = (where: TestStore, ...args: string[]) => coppice([...args, "--store", where.url]);

describe("moving", () => {
  test("[CL40] fork copies at the head, a clock or a tag, and says where it ends", async () => {
    expect((await on(store, "fork", "a", "fork")).stdout).toMatch(/^forked fork at clock 5 /);
    const [past] = jsonLines((await on(store, "fork", "a", "past", "--at", "2", "--json")).stdout);
    expect(past).toMatchObject({ id: "past", clock: 2 });
    expect((await on(store, "fork", "a", "tagged", "--at", "first")).code).toBe(0);
    expect((await on(store, "fork", "a", "tagged too", "--at", "tag:first")).code).toBe(0);
    const taken = await on(store, "fork", "a", "fork");
    expect(taken.code).toBe(1);
    expect(taken.stderr).toContain("Choose another id");
    expect((await on(store, "fork", "nobody", "x")).code).toBe(3);
    expect((await on(store, "fork", "a", "gone")).stderr).toContain("deleted");
    expect((await on(store, "fork", "a", "gone", "--recreate")).stdout).toContain("clock 10");
    expect((await on(store, "check")).code).toBe(0);
  });

  test("[CL81] a fork or an export of a version whose events are gone says which there can be", async () => {
    const trimmed = await makeStore(async (storage) => {
      for (const event of keystrokes("hello, world")) await storage.append("a", [event]);
      await storage.tag("a", "old", 4);
      await storage.compact("a");
    });
    const { oldestClock } = JSON.parse((await on(trimmed, "info", "a", "--json")).stdout) as {
      oldestClock: number;
    };
    const folder = await temporaryDirectory();
    for (const [command, target] of [
      ["fork", "x"],
      ["export", join(folder, "a.coppice")],
    ] as const) {
      for (const at of ["old", "4", String(oldestClock)]) {
        const { code, stderr } = await on(trimmed, command, "a", target, "--at", at);
        expect({ command, at, code }).toEqual({ command, at, code: 1 });
        expect(stderr).toContain(`these were trimmed; clocks from ${oldestClock + 1} to 12 can be`);
        expect(stderr).toContain("A tagged version can still be looked at: `coppice show --at NAME`");
      }
      expect((await on(trimmed, command, "a", target, "--at", String(oldestClock + 1))).code).toBe(0);
      expect((await coppice([command, "--help"])).stdout.replaceAll(/\s+/g, " ")).toContain(
        "Only versions whose events are kept",
      );
    }
  });

  test("[CL41] an export is a file that import document takes back, from a pipe as well", async () => {
    const folder = await temporaryDirectory();
    const file = join(folder, "a.coppice");
    expect((await on(store, "export", "a", file)).code).toBe(0);
    const bytes = await readFile(file);
    const other = `level:${join(folder, "other")}`;
    const into = (...args: string[]) => coppice(["import", "document", ...args, "--store", other]);
    expect((await into(file)).stdout).toBe("imported a at clock 5\n");
    expect((await into(file)).stdout).toBe("unchanged a at clock 5\n");
    expect((await into(file, "--id", "b", "--json")).stdout).toContain('"outcome":"imported"');
    await writeFile(file, bytes.subarray(0, bytes.length - 1));
    const cut = await into(file, "--id", "c");
    expect(cut.code).toBe(1);
    expect(cut.stderr).toContain("ends too early");
    expect((await coppice(["ls", "--store", other])).stdout).toBe("a\nb\n");
    const missing = await into(join(folder, "no file"));
    expect(missing.code).toBe(3);
    expect(missing.stderr).toContain("there is no file");
    const piped = await on(store, "export", "a");
    expect(piped.code).toBe(0);
    expect(piped.stdout.startsWith("coppice\0")).toBe(true);
    expect((await on(store, "export", "nobody", join(folder, "none"))).code).toBe(3);
  });

  test("[CL77] of a document that did not exist yet, export writes no file and keeps an old one, and fork says so", async () => {
    const folder = await temporaryDirectory();
    const file = join(folder, "a.coppice");
    const early = ["--at", "1999-01-01T00:00:00Z"];
    const none = await on(store, "export", "a", file, ...early, "--json");
    expect(none).toMatchObject({ code: 3, stdout: "" });
    expect(jsonLines(none.stderr)).toMatchObject([{ error: { code: "NOT_FOUND" } }]);
    expect((await on(store, "export", "a", ...early)).code).toBe(3);
    expect(await readdir(folder)).toEqual([]);
    await writeFile(file, "precious");
    expect((await on(store, "export", "a", file, ...early, "--force")).stderr).toContain(
      "did not exist then",
    );
    expect(await readFile(file, "utf8")).toBe("precious");
    const forked = await on(store, "fork", "a", "never", ...early);
    expect(forked.code).toBe(3);
    expect(forked.stderr).toContain('"a" did not exist then');
  });

  test("[CL78] what the system refuses has a code of ours, the system's in the details, and a line on what to do", async () => {
    const folder = await temporaryDirectory();
    const beyond = join(folder, "none", "a.coppice");
    const refused = await on(store, "export", "a", beyond, "--json");
    expect(refused.code).toBe(1);
    expect(jsonLines(refused.stderr)).toMatchObject([
      { error: { code: "FAILED", kind: "failed", details: { system: "ENOENT", file: beyond } } },
    ]);
    expect(refused.stderr).not.toContain(".part");
    const [directory] = jsonLines((await on(store, "import", "document", folder, "--json")).stderr);
    expect(directory).toMatchObject({
      error: {
        code: "FAILED",
        details: { system: "EISDIR", file: folder },
        hint: expect.stringContaining("`coppice export` wrote"),
      },
    });
    expect((await on(store, "import", "document", folder)).stderr).toContain("is a directory, and no export");
    const empty = await on(store, "export", "a", "", "--force");
    expect([empty.code, empty.stderr]).toEqual([2, expect.stringContaining("its name is empty\n")]);
    expect((await on(store, "export", "a", beyond)).stderr).toContain("Look at the name, the rights");
    const file = join(folder, "file");
    await writeFile(file, "");
    expect((await coppice(["copy", store.url, `file:${file}`])).stderr).not.toContain("Wait and repeat");
  });

  test("[CL47] export overwrites a file only with --force, and leaves the old one or the whole new one", async () => {
    const folder = await temporaryDirectory();
    const file = join(folder, "a.coppice");
    await writeFile(file, "precious");
    const refused = await on(store, "export", "a", file, "--json");
    expect(refused.code).toBe(1);
    expect(jsonLines(refused.stderr)).toMatchObject([{ error: { code: "EXISTS", kind: "conflict" } }]);
    expect((await on(store, "export", "a", file)).stderr).toContain("--force");
    expect((await on(store, "export", "nobody", file, "--force")).code).toBe(3);
    const broken = await makeStore((storage) => storage.append("a", events).then(() => undefined));
    await damage(broken.location, "a");
    expect((await on(broken, "export", "a", file, "--force")).code).toBe(5);
    expect(await readFile(file, "utf8")).toBe("precious");
    expect((await on(store, "export", "a", file, "--force")).code).toBe(0);
    expect((await readFile(file, "utf8")).startsWith("coppice\0")).toBe(true);
    expect((await on(broken, "export", "a", join(folder, "none"))).code).toBe(5);
    expect(await readdir(folder)).toEqual(["a.coppice"]);
  });

  test("[CL155] export writes through a symbolic link, also to where nothing is yet", async () => {
    const folder = await temporaryDirectory();
    const [real, link, dangling] = ["real", "link", "dangling"].map((name) => join(folder, name));
    await mkdir(join(folder, "deep"));
    await writeFile(real!, "precious");
    await symlink("real", link!);
    await symlink("deep/new", dangling!);
    const refused = await on(store, "export", "a", link!);
    expect([refused.code, refused.stderr.includes("--force")]).toEqual([1, true]);
    expect(await readFile(real!, "utf8")).toBe("precious");
    for (const [name, ...force] of [[link!, "--force"], [dangling!]]) {
      expect((await on(store, "export", "a", name!, ...force)).code).toBe(0);
      expect((await lstat(name!)).isSymbolicLink()).toBe(true);
      expect((await readFile(name!, "utf8")).startsWith("coppice\0")).toBe(true);
    }
    expect(await readdir(join(folder, "deep"))).toEqual(["new"]);
    expect((await readdir(folder)).sort()).toEqual(["dangling", "deep", "link", "real"]);
  });

  test("[CL155] export leaves what is no file as it is, with --force too, and does not suggest it", async () => {
    const folder = await temporaryDirectory();
    const [fifo, link, directory] = ["fifo", "link", "directory"].map((name) => join(folder, name));
    execFileSync("mkfifo", [fifo!]);
    await symlink("fifo", link!);
    await mkdir(directory!);
    for (const force of [[], ["--force"]]) {
      for (const name of [fifo!, link!]) {
        const { code, stderr } = await on(store, "export", "a", name, ...force);
        expect([code, stderr.includes("is a pipe, and no file"), stderr]).toEqual([
          1,
          true,
          expect.stringContaining(`Use - and redirect: coppice export <id> - > ${name}\n`),
        ]);
      }
      const { code, stderr } = await on(store, "export", "a", directory!, ...force);
      expect([code, stderr]).toEqual([1, expect.stringContaining("is a directory, and no file")]);
      expect(stderr).toContain(join(directory!, "notes.coppice"));
    }
    expect([(await lstat(fifo!)).isFIFO(), (await lstat(link!)).isSymbolicLink()]).toEqual([true, true]);
    expect((await readdir(folder)).sort()).toEqual(["directory", "fifo", "link"]);
  });

  test("[CL42] copy makes a store of what is there, and then writes what is new", async () => {
    const target = `level:${join(await temporaryDirectory(), "copy")}`;
    const first = await coppice(["copy", store.url, target]);
    const made = `note: there was no store at ${target}; a new one was made\n`;
    expect(first).toMatchObject({ code: 0, stderr: made });
    expect(first.stdout).toMatch(/ ids: \d+ copied, 0 updated, 0 unchanged/);
    await on(store, "fork", "a", "more");
    const [second] = jsonLines((await coppice(["copy", store.url, target, "--json"])).stdout);
    expect(second).toMatchObject({ copied: 1, updated: 0, failures: [], created: false });
    const one = await coppice(["copy", store.url, target, "--prefix", "more"]);
    expect(one.stdout).toMatch(/^1 id: 0 copied/);
    expect((await coppice(["check", "--store", target])).code).toBe(0);
    const dumped = await coppice(["dump", "more", "--store", target]);
    expect([dumped.code, dumped.stdout]).toEqual([
      0,
      expect.stringMatching(/^copied +more .* intact +record /m),
    ]);
    const missing = await coppice(["copy", `${target}-none`, target]);
    expect(missing.code).toBe(3);
    expect(missing.stderr).not.toContain("--store");
    // What the target has of its own is kept, and the option is named as this command has it.
    const own = await openStore(target.slice("level:".length));
    await own.append("more", events);
    await own.close();
    await on(store, "rm", "more", "--yes");
    await on(store, "fork", "a", "more", "--recreate");
    for (const json of [[], ["--json"]]) {
      const kept = await coppice(["copy", store.url, target, ...json]);
      expect(kept.code).toBe(1);
      const said = json.length === 0 ? kept.stderr : kept.stdout;
      expect(said).toContain("copy with `--replace`");
      expect(said).not.toContain("`replace`");
    }
    expect((await coppice(["copy", store.url])).code).toBe(2);
    const same = await coppice(["copy", store.url, store.url]);
    expect(same.code).toBe(2);
    expect(same.stderr).toContain("two stores");
  });

  test("[CL170] a copy from cron makes no target where none is mounted, and its line names what has changed", async () => {
    const source = await makeStore(async (storage) => {
      for (const id of ["a", "b", "c"]) await storage.append(id, events);
    });
    const target = `level:${join(await temporaryDirectory(), "backup")}`;
    const copy = (...args: string[]) => coppice(["copy", source.url, target, "--json", ...args]);
    const unmounted = await copy("--existing");
    expect([unmounted.code, unmounted.stdout, existsSync(target.slice("level:".length))]).toEqual([
      3,
      "",
      false,
    ]);
    expect(jsonLines((await copy()).stdout)).toMatchObject([
      { documents: [{ id: "a" }, { id: "b" }, { id: "c" }] },
    ]);
    const storage = await openStore(source.location);
    await storage.append("b", events);
    await storage.close();
    const [line] = jsonLines((await copy("--existing")).stdout);
    expect(line).toMatchObject({
      ...{ time: expect.stringMatching(/^20\d\d-.*Z$/), from: source.url, to: target },
      ...{ updated: 1, unchanged: 2, documents: [{ id: "b", outcome: "updated" }], created: false },
    });
  });

  test("[CL171] a copy of what the target has deleted names the option that brings it back", async () => {
    const source = await makeStore((storage) => storage.append("a", events));
    const target = await makeStore(async (storage) => {
      await storage.append("a", events);
      await storage.delete("a");
    });
    const copy = (...args: string[]) => coppice(["copy", source.url, target.url, ...args]);
    expect(await copy()).toMatchObject({
      code: 1,
      stderr: "failed a: the target has deleted it; `--replace` brings it back\n",
    });
    expect((await copy("--replace")).code).toBe(0);
    expect((await on(target, "info", "a")).code).toBe(0);
  });

  test("[CL152] copy tells deletions and erasures from documents, and says when no id has the prefix", async () => {
    const source = await makeStore(async (storage) => {
      for (const id of ["kept", "secret", "gone"]) await storage.append(id, events);
      await storage.delete("gone");
    });
    const target = `level:${join(await temporaryDirectory(), "copy")}`;
    const none = ["copy", source.url, target, "--prefix", "nope"];
    const made = await coppice(none);
    expect([made.code, made.stdout]).toEqual([0, expect.stringMatching(/^0 ids: 0 copied/)]);
    expect(made.stderr).toBe(
      `note: no id in ${source.url} begins with nope\n` +
        `note: there was no store at ${target}; a new one was made\n`,
    );
    expect((await coppice(none)).stderr).toBe(`note: no id in ${source.url} begins with nope\n`);
    expect((await coppice([...none, "--json"])).stderr).toBe("");
    const run = async () => (await coppice(["copy", source.url, target])).stdout.split(";")[0];
    expect(await run()).toBe("3 ids: 2 copied, 0 updated, 0 unchanged, 1 deletion carried over");
    expect(await run()).toBe("3 ids: 0 copied, 0 updated, 3 unchanged");
    await on(source, "rm", "kept", "--yes");
    await on(source, "erase", "secret", "--yes");
    expect(await run()).toBe(
      "2 ids: 0 copied, 0 updated, 1 unchanged, 1 deletion and 1 erasure carried over",
    );
  });

  test("[CL163] import and copy say that they have made a store, and beside what", async () => {
    const folder = await temporaryDirectory();
    const file = join(folder, "a.coppice");
    expect((await on(store, "export", "a", file)).code).toBe(0);
    for (const args of [
      ["copy", store.url],
      ["import", "document", file, "--store"],
    ]) {
      const name = `${args[0]}-target`;
      const run = (...more: string[]) => coppice([...args, `level:${join(folder, name)}`, ...more]);
      const made = `note: there was no store at level:${join(folder, name)}; a new one was made\n`;
      expect(await run()).toMatchObject({ code: 0, stderr: made });
      expect(await run()).toMatchObject({ code: 0, stderr: "" });
      expect(JSON.parse((await run("--json")).stdout)).toMatchObject({ created: false });
      const json = await coppice([...args, `level:${join(folder, name)}-json`, "--json"]);
      expect([json.stderr, JSON.parse(json.stdout).created]).toEqual(["", true]);
      for (const [others, beside] of [
        [["lost+found", ".profile"], ""],
        [["notes.txt"], ", beside notes.txt"],
        [["notes.txt", "b", "c"], ", beside b and 2 other files"],
      ] as const) {
        const used = join(folder, `${name}-${others.length}`);
        for (const other of others) await mkdir(join(used, other), { recursive: true });
        const { code, stderr } = await coppice([...args, `file:${used}`]);
        expect([code, stderr]).toEqual([
          0,
          `note: there was no store at file:${used}; a new one was made${beside}\n`,
        ]);
        await rm(used, { recursive: true });
      }
    }
  });

  test("[CL43] erase wants --yes without a terminal, and leaves no document", async () => {
    const doomed = await makeStore((storage) => storage.append("secret", events).then(() => undefined));
    const asked = await on(doomed, "erase", "secret");
    expect(asked.code).toBe(2);
    expect(asked.stderr).toContain("--yes");
    const [erased] = jsonLines((await on(doomed, "erase", "secret", "--yes", "--json")).stdout);
    expect(erased).toMatchObject({ erased: [{ id: "secret", existed: true }] });
    expect(await on(doomed, "erase", "typo", "--yes")).toEqual({
      code: 3,
      stdout: "",
      stderr: "typo: there was nothing of it; if files still held some, they do no more\n",
    });
    expect((await on(doomed, "ls")).stdout).toBe("");
    expect((await on(doomed, "dump")).stdout).not.toContain("secret");
  });

  test("[CL172] erase refuses ids that can be none before it erases, and tells a failure with what it has erased", async () => {
    const doomed = await makeStore(async (storage) => {
      for (const id of ["first", "broken", "last"]) await storage.append(id, events);
    });
    for (const id of ["", "x".repeat(LIMITS.idBytesMax + 1)]) {
      const refused = await on(doomed, "erase", "first", id, "--yes");
      expect([refused.code, refused.stdout]).toEqual([2, ""]);
      expect(refused.stderr).toContain("nothing was written");
    }
    expect((await on(doomed, "ls")).stdout).toBe("broken\nfirst\nlast\n");
    await makeNewer(doomed.location, "broken");
    const ids = ["first", "broken", "last"];
    expect(await on(doomed, "erase", ...ids, "--yes")).toMatchObject({
      code: 1,
      stdout: "erased first\n",
      stderr: expect.not.stringContaining("note:"),
    });
    expect(await filesHolding(doomed.location, new TextEncoder().encode("first"))).toEqual([]);
    const left = await on(doomed, "erase", "last", "--no-reclaim", "--yes", "--json");
    expect(JSON.parse(left.stdout)).toMatchObject({ erased: [{ id: "last" }], metas: [], reclaimed: false });
    expect(await on(doomed, "erase", "last", "--no-reclaim", "--yes")).toMatchObject({
      code: 3,
      stderr:
        "last: there was nothing of it; files may still hold some until `coppice compact --all --reclaim`\n",
    });
    expect(await filesHolding(doomed.location, new TextEncoder().encode("last"))).not.toEqual([]);
    const failed = await on(doomed, "erase", ...ids, "--yes", "--json");
    expect([failed.code, JSON.parse(failed.stdout)]).toEqual([
      1,
      { erased: [{ id: "first", existed: false, keys: 0 }], metas: [], reclaimed: true },
    ]);
    expect(await filesHolding(doomed.location, new TextEncoder().encode("last"))).toEqual([]);
  });

  test("[CL44] dump shows every key with its checksum, and ends with 5 when one fails", async () => {
    const lines = jsonLines((await on(store, "dump", "a", "--json")).stdout) as {
      space: string;
      state: string;
    }[];
    expect(new Set(lines.map(({ space }) => space))).toEqual(new Set(["meta", "tags", "events", "tagged"]));
    expect(new Set(lines.map(({ state }) => state))).toEqual(new Set(["intact"]));
    expect((await on(store, "dump", "a")).stdout).toMatch(/^space +id +seq/);
    const { stdout } = await on(store, "dump", "a");
    expect(stdout).toMatch(/^tagged +a +5 +[0-9a-f]+\/1 /m);
    expect(stdout).toMatch(/^meta +a .* \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ$/m);
    expect(new Set(stdout.split("\n").map((row) => row.search(/intact|state/)))).toHaveProperty("size", 2);
    expect((await on(store, "dump", "nobody")).code).toBe(3);
    const broken = await makeStore((storage) => storage.append("d", events).then(() => undefined));
    await damage(broken.location, "d");
    const dumped = await on(broken, "dump", "--json");
    expect(dumped.code).toBe(5);
    expect(dumped.stdout).toContain('"state":"damaged"');
  });

  test("[CL79] chunks of AutomergeRepoStorage are not copied, checked or listed, which copy, check and ls say; dump shows them", async () => {
    const location = join(await temporaryDirectory(), "data");
    const url = `level:${location}`;
    const chunks = await AutomergeRepoStorage.open(levelBackend(location));
    await chunks.save(["doc", "snapshot", "a"], new Uint8Array(2 ** 20 + 1));
    await chunks.save(["doc", "empty"], new Uint8Array(0));
    await chunks.close();
    const copied = await coppice(["copy", url, `${url}-copy`]);
    expect([copied.code, copied.stdout]).toEqual([1, ""]);
    expect(copied.stderr).toContain("holds chunks of AutomergeRepoStorage, which were not copied");
    const json = await coppice(["copy", url, `${url}-copy`, "--json"]);
    expect([json.code, json.stderr, jsonLines(json.stdout)]).toMatchObject([
      1,
      "",
      [{ seen: 0, chunks: true }],
    ]);
    const checked = await coppice(["check", "-s", url]);
    expect(checked).toMatchObject({ code: 0, stdout: "ok 0 documents, 0 events\n" });
    expect(checked.stderr).toContain("holds chunks of AutomergeRepoStorage, which are not checked");
    const report = await coppice(["check", "-s", url, "--json"]);
    expect([report.stderr, JSON.parse(report.stdout)]).toMatchObject(["", { clean: true, chunks: true }]);
    for (const long of [[], ["--long"]]) {
      const listed = await coppice(["ls", "-s", url, ...long]);
      expect(listed).toMatchObject({ code: 0, stdout: "" });
      expect(listed.stderr).toMatch(/^no documents\nnote: level:.* holds chunks of AutomergeRepoStorage, /);
    }
    expect(await coppice(["ls", "-s", url, "--json"])).toEqual({ code: 0, stdout: "", stderr: "" });
    const dumped = await coppice(["dump", "-s", url, "--json"]);
    expect([dumped.code, jsonLines(dumped.stdout)]).toMatchObject([
      0,
      [
        { space: "chunks", id: "doc/empty/", part: 0, state: "intact", kind: "chunk" },
        { id: "doc/snapshot/a/", part: 0, state: "intact" },
        { id: "doc/snapshot/a/", seq: null, part: 1, state: "intact" },
      ],
    ]);
    const backend = await levelBackend(location).open(systemEnv());
    const key = ["chunks", "doc/empty/", 0] as const;
    const value = (await backend.get(key))!.slice();
    value[2]! ^= 1;
    await backend.commit({ put: [{ key, value }] });
    await backend.close();
    const damaged = await coppice(["dump", "-s", url]);
    expect([damaged.code, damaged.stdout]).toEqual([
      5,
      expect.stringMatching(/^chunks +doc\/empty\/ +0 .* damaged/m),
    ]);
    expect((await on(store, "check", "--json")).stdout).not.toContain("chunks");
    const none = await on(await makeStore(async () => undefined), "ls");
    expect(none).toEqual({ code: 0, stdout: "", stderr: "no documents\n" });
  });

  test("[CL8] dump says who has the store open, and waits for its end", async () => {
    const used = await makeStore((storage) => storage.append("d", events).then(() => undefined));
    const storage = await openStore(used.location);
    const locked = await on(used, "dump", "--json");
    expect(locked.code).toBe(4);
    expect(jsonLines(locked.stderr)).toMatchObject([{ error: { details: { store: used.url } } }]);
    const waiting = on(used, "dump", "--wait", "1m");
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await storage.close();
    expect((await waiting).code).toBe(0);
  });

  test("[CL45] completion names every command and option, in scripts that the shells take", async () => {
    for (const shell of ["bash", "zsh", "fish"]) {
      const { code, stdout } = await coppice(["completion", shell]);
      expect(code).toBe(0);
      for (const word of ["compact", "copy", "erase", "dump"]) expect(stdout).toContain(word);
      expect(stdout).toContain("min-events");
    }
    const script = (await coppice(["completion", "bash"])).stdout;
    const probe = `${script}\nCOMP_WORDS=(coppice comp); COMP_CWORD=1; _coppice; echo "\${COMPREPLY[@]}"
COMP_WORDS=(coppice import doc); COMP_CWORD=2; _coppice; echo "\${COMPREPLY[@]}"
COMP_WORDS=(coppice compact --dry); COMP_CWORD=2; _coppice; echo "\${COMPREPLY[@]}"`;
    const { stdout, stderr } = spawnSync("bash", ["-c", probe], { encoding: "utf8" });
    expect({ stdout, stderr }).toEqual({ stdout: "compact completion\ndocument\n--dry-run\n", stderr: "" });
    expect((await coppice(["completion", "tcsh"])).code).toBe(2);
  });
});
