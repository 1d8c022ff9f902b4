/** What ends a run from outside: a lock, a signal, a reader that went away. And what only a terminal shows. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { fileLogBackend } from "@coppice/file";
import { type DocumentStorage, systemEnv } from "coppice";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { filesHolding } from "../../../test/support/files.js";
import {
  cleanUp,
  coppice,
  damage,
  entry,
  fileBytes,
  keystrokes,
  makeStore,
  noTerminalReason,
  openStore,
  start,
  startOnTerminal,
  type TestStore,
  temporaryDirectory,
  until,
} from "./command.js";

const DOCUMENTS = 400;
const IDS = Array.from({ length: DOCUMENTS }, (_, index) => `doc-${String(index).padStart(5, "0")}`);
const events = keystrokes("a few words");

async function fillMany(storage: DocumentStorage): Promise<void> {
  await Promise.all(IDS.map((id) => storage.append(id, events)));
  await Promise.all(IDS.map((id) => storage.append(id, events)));
}

/** Opened once more, so that LevelDB has written its log into tables: what grows later is from the command. */
async function makeMany(): Promise<TestStore> {
  const store = await makeStore(fillMany);
  await (await openStore(store.location)).close();
  return store;
}

/** Interrupts a removal once it has removed something. */
async function interrupted({ url, location }: TestStore, args: readonly string[]) {
  // As in `makeMany`: what grows is from the command.
  await (await openStore(location)).close();
  const before = await fileBytes(location);
  const run = await start([...args, "--yes", "-s", url]);
  await until("something is removed", async () => (await fileBytes(location)) > before + 20_000);
  run.child.kill("SIGINT");
  const { code, stdout, stderr } = await run.ended;
  expect(code).toBe(130);
  return { stdout, stderr };
}

/** What `coppice … | head -n 1` shows, and then the exit codes of both. */
async function intoHead(args: readonly string[]): Promise<{ stdout: string; stderr: string }> {
  const line = `"$0" "$@" | head -n 1; echo "codes: \${PIPESTATUS[*]}"`;
  const child = spawn("bash", ["-c", line, process.execPath, await entry(), ...args]);
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (data) => {
    stdout += data;
  });
  child.stderr.on("data", (data) => {
    stderr += data;
  });
  await once(child, "close");
  return { stdout, stderr };
}

let small: TestStore;

beforeAll(async () => {
  small = await makeStore(async (storage) => {
    for (const id of ["a", "b", "c\u001b[31m"]) {
      await storage.append(id, events);
      await storage.append(id, events);
    }
  });
});
afterAll(cleanUp);

describe("a store that another process has open", () => {
  test("[CL8] is exit code 4 for every command, and says who has it", async () => {
    const holder = await openStore(small.location);
    try {
      for (const args of [["compact", "--all"], ["ls"]]) {
        const { code, stdout, stderr } = await coppice([...args, "-s", small.url]);
        expect({ args, code, stdout }).toEqual({ args, code: 4, stdout: "" });
        if (process.platform === "linux") expect(stderr).toContain(`process ${process.pid} (`);
        expect(stderr).toMatch(/\nA store has one owner\..*--wait/);
      }
      const json = await coppice(["compact", "--all", "--json", "-s", small.url]);
      expect(JSON.parse(json.stderr)).toMatchObject({ error: { code: "LOCKED", kind: "busy" } });
    } finally {
      await holder.close();
    }
  });

  test("[CL8] says who has a file log as well, whose lock belongs to no process", async (context) => {
    context.skip(process.platform !== "linux", "only Linux tells");
    const location = join(await temporaryDirectory(), "log");
    const holder = await fileLogBackend(location).open(systemEnv());
    try {
      const { code, stderr } = await coppice(["compact", "--all", "-s", `file:${location}`]);
      expect([code, stderr]).toEqual([4, expect.stringContaining(`process ${process.pid} (`)]);
    } finally {
      await holder.close();
    }
  });

  test("[CL8] --wait waits until it is free, and gives up when it is not", async () => {
    const holder = await openStore(small.location);
    try {
      const impatient = await coppice(["ls", "--wait", "300ms", "-s", small.url]);
      expect(impatient.code).toBe(4);
      expect(impatient.stderr).toContain("after waiting for 300 ms");
      const patient = await start(["ls", "--wait", "20s", "-s", small.url]);
      await new Promise((resolve) => setTimeout(resolve, 500));
      expect(patient.child.exitCode).toBeNull();
      await holder.close();
      expect((await patient.ended).code).toBe(0);
    } finally {
      await holder.close();
    }
  });

  test("[CL8] of two compactions that start together neither spoils the other", async () => {
    const { url, location } = await makeMany();
    const runs = await Promise.all([1, 2].map(() => coppice(["compact", "--all", "-s", url])));
    expect(runs.map(({ code }) => code).sort()).toContain(0);
    for (const { code } of runs) expect([0, 4]).toContain(code);
    await expectSound(location);
  });

  test("[CL9] waiting for a lock ends at once with Ctrl-C", async () => {
    const holder = await openStore(small.location);
    try {
      const waiting = await start(["ls", "--wait", "1h", "-s", small.url, "--json"]);
      // Before it listens to signals, one would end it as the system does.
      await new Promise((resolve) => setTimeout(resolve, 4000));
      waiting.child.kill("SIGINT");
      const { code, stderr } = await waiting.ended;
      expect(code).toBe(130);
      expect(JSON.parse(stderr)).toMatchObject({ error: { code: "INTERRUPTED" } });
    } finally {
      await holder.close();
    }
  });
});

describe("signals", () => {
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    test(`[CL9] ${signal} during compact --all ends with 130, finishes what it began, and leaves a sound store`, async () => {
      const { url, location } = await makeMany();
      const before = await fileBytes(location);
      const run = await start(["compact", "--all", "--json", "-s", url]);
      await until("compactions are written", async () => (await fileBytes(location)) > before + 20_000);
      run.child.kill(signal);
      const { code, stdout, stderr } = await run.ended;
      expect(code).toBe(130);
      const summary = JSON.parse(stdout);
      expect(summary).toMatchObject({ stopped: "signal", failures: [] });
      expect(summary.compacted).toBeGreaterThan(0);
      expect(summary.compacted).toBeLessThan(DOCUMENTS);
      expect(JSON.parse(stderr)).toMatchObject({ error: { kind: "interrupted" } });
      await expectSound(location);
    });
  }

  test("[CL159] compact --all that is stopped says after how many documents, and speaks of no others", async () => {
    const { url, location } = await makeMany();
    const before = await fileBytes(location);
    const run = await start(["compact", "--all", "-s", url]);
    await until("compactions are written", async () => (await fileBytes(location)) > before + 20_000);
    run.child.kill("SIGTERM");
    const { code, stdout } = await run.ended;
    expect(code).toBe(130);
    const [, compacted, seen] = /^compacted (\d+) of the first (\d+) documents, /.exec(stdout) ?? [];
    expect([Number(compacted) > 0, Number(seen) < DOCUMENTS, stdout]).toEqual([
      true,
      true,
      expect.stringContaining(
        `\nstopped after ${seen} documents: it was interrupted; the next run goes on\n`,
      ),
    ]);
    const none = await coppice(["compact", "--all", "--budget", "0s", "-s", url]);
    expect([none.code, none.stdout]).toEqual([
      0,
      expect.stringMatching(
        /^compacted 0 of the first 0 documents, .*\nstopped after 0 documents: the time /,
      ),
    ]);
  });

  test("[CL172] erase that is interrupted says what is erased, and that the files hold it, and removes it when repeated", async () => {
    const store = await makeMany();
    const { url, location } = store;
    const { erased, ...rest } = JSON.parse((await interrupted(store, ["erase", ...IDS, "--json"])).stdout);
    expect([erased[0], rest]).toEqual([
      { id: IDS[0], existed: true, keys: expect.any(Number) },
      { metas: [], reclaimed: false },
    ]);
    expect(erased.length).toBeLessThan(DOCUMENTS);
    const bytes = new TextEncoder().encode(IDS[0]);
    expect(await filesHolding(location, bytes)).not.toEqual([]);
    const said = await interrupted(store, ["erase", ...IDS.toReversed()]);
    expect(said.stdout).toMatch(/^(?:erased doc-\d+\n)+$/);
    expect(said.stderr).toBe(
      "note: the files still hold what was erased, until you repeat this command,\n" +
        "or run `coppice compact --all --reclaim`\ncoppice: interrupted by SIGINT\n",
    );
    expect(await coppice(["erase", IDS[0]!, "--yes", "-s", url])).toEqual({
      code: 3,
      stdout: "",
      stderr: `${IDS[0]}: there was nothing of it; if files still held some, they do no more\n`,
    });
    expect(await filesHolding(location, bytes)).toEqual([]);
  });

  test("[CL172] rm --json that is interrupted says what is removed", async () => {
    const store = await makeMany();
    const { removed } = JSON.parse((await interrupted(store, ["rm", ...IDS, "--json"])).stdout);
    expect(removed).toEqual(IDS.slice(0, removed.length));
    expect(removed.length).toBeGreaterThan(0);
    await expectSound(store.location, DOCUMENTS - removed.length);
  });

  test("[CL9] a second signal ends the process at once, and the store is sound all the same", async () => {
    const { url, location } = await makeMany();
    const before = await fileBytes(location);
    const run = await start(["compact", "--all", "--json", "-s", url]);
    await until("compactions are written", async () => (await fileBytes(location)) > before + 20_000);
    run.child.kill("SIGINT");
    run.child.kill("SIGTERM");
    const { code, stdout } = await run.ended;
    expect({ code, stdout }).toEqual({ code: 130, stdout: "" });
    await expectSound(location);
  });
});

test("[CL14] conformance leaves no store behind after Ctrl-C either, whenever it comes", async () => {
  const outcomes = [5, 20, 35, 50].map(async (stores) => {
    const directory = await temporaryDirectory();
    const run = await start(["conformance", `level:${directory}`]);
    const hasMade = async () => {
      const [home] = await readdir(directory);
      const made = home === undefined ? [] : await readdir(join(directory, home));
      return made.some((name) => Number(name.replace("store-", "")) >= stores);
    };
    await until(`${stores} stores are made`, hasMade);
    run.child.kill("SIGINT");
    const { code } = await run.ended;
    return { code, left: await readdir(directory) };
  });
  for (const outcome of await Promise.all(outcomes)) expect(outcome).toEqual({ code: 130, left: [] });
}, 120_000);

test("[CL46] Ctrl-C during copy ends with 130, and the next copy goes on with what is missing", async () => {
  const { url } = await makeMany();
  const target = join(await temporaryDirectory(), "copy");
  const run = await start(["copy", url, `level:${target}`, "--json"]);
  const sizeOf = () => fileBytes(target).catch(() => 0);
  await until("documents are copied", async () => (await sizeOf()) > 20_000);
  run.child.kill("SIGINT");
  const { code, stdout, stderr } = await run.ended;
  expect(code).toBe(130);
  const summary = JSON.parse(stdout);
  expect(summary).toMatchObject({ stopped: "signal", failures: [] });
  expect(summary.copied).toBeGreaterThan(0);
  expect(summary.copied).toBeLessThan(DOCUMENTS);
  expect(JSON.parse(stderr)).toMatchObject({ error: { kind: "interrupted" } });
  await expectSound(target, summary.copied);
  const again = await coppice(["copy", url, `level:${target}`, "--json"]);
  expect(again.code).toBe(0);
  const { copied, unchanged } = summary;
  expect(JSON.parse(again.stdout)).toMatchObject({
    copied: DOCUMENTS - copied,
    unchanged: copied + unchanged,
  });
  await expectSound(target);
});

test("[CL159] a copy that is interrupted says after how many ids, so that its sum is not taken for the whole", async () => {
  const { url } = await makeMany();
  const target = join(await temporaryDirectory(), "copy");
  const run = await start(["copy", url, `level:${target}`]);
  const sizeOf = () => fileBytes(target).catch(() => 0);
  await until("documents are copied", async () => (await sizeOf()) > 20_000);
  run.child.kill("SIGINT");
  const { code, stdout } = await run.ended;
  expect(code).toBe(130);
  const [, seen] = /^the first (\d+) ids: /.exec(stdout) ?? [];
  expect(Number(seen)).toBeLessThan(DOCUMENTS);
  expect(stdout).toContain(`\nstopped after ${seen} ids: it was interrupted; the next copy goes on\n`);
});

async function expectSound(location: string, documents = DOCUMENTS): Promise<void> {
  const storage = await openStore(location);
  const report = await storage.check();
  await storage.close();
  expect(report).toMatchObject({ documents, problems: [], clean: true });
}

describe("a reader that goes away", () => {
  test("[CL7] `| head` ends the command quietly and successfully", async () => {
    const { url } = await makeMany();
    for (const args of [
      ["ls", "-s", url],
      ["ls", "--long", "--json", "-s", url],
    ]) {
      const { stdout, stderr } = await intoHead(args);
      expect(stderr).toBe("");
      expect(stdout).toMatch(/^.*doc-00000.*\ncodes: 0 0\n$/);
    }
  });

  test("[CL71] problems that were found decide the exit code, also when nobody reads on", async () => {
    const { location, url } = await makeMany();
    await damage(location);
    const whole = await coppice(["check", "-s", url]);
    // More than a pipe holds, so that the command writes on after its reader is gone.
    expect(whole.stdout.length).toBeGreaterThan(70_000);
    expect(whole.code).toBe(1);
    const { stdout, stderr } = await intoHead(["check", "-s", url]);
    expect(stderr).toBe("");
    expect(stdout).toMatch(/^problem .*\ncodes: 1 0\n$/);
  });
});

describe("notes and errors that cannot be told", () => {
  /** The exit code of `coppice … 2> <to>`, and what it wrote on its standard output. */
  async function without(to: string, args: readonly string[]): Promise<[code: number | null, said: string]> {
    const child = spawn("bash", ["-c", `exec "$0" "$@" ${to}`, process.execPath, await entry(), ...args]);
    let said = "";
    child.stdout.on("data", (data) => {
      said += data;
    });
    const [code] = await once(child, "close");
    return [code, said];
  }
  const nowhere = ["2> /dev/full", "2> >(exit)"];

  test("[CL182] what fails ends with its exit code", async (context) => {
    context.skip(!existsSync("/dev/full"), "there is no /dev/full");
    for (const to of nowhere) {
      expect(await without(to, ["nosuch"])).toEqual([2, ""]);
      expect(await without(to, ["info", "nosuch", "-s", small.url])).toEqual([3, ""]);
    }
  });

  test("[CL182] what is done is done, and its store is closed", async (context) => {
    context.skip(!existsSync("/dev/full"), "there is no /dev/full");
    for (const to of nowhere) {
      const target = `level:${join(await temporaryDirectory(), "copy")}`;
      // A new store is told of in a note.
      const [code, said] = await without(to, ["copy", small.url, target]);
      expect([code, said]).toEqual([0, expect.stringMatching(/^\d ids: \d copied/)]);
    }
  });

  test("[CL182] [CL183] a server goes on, and ends with all saved", async (context) => {
    context.skip(!existsSync("/dev/full"), "there is no /dev/full");
    for (const to of ["2> /dev/full", "> /dev/full 2>&1"]) {
      const location = join(await temporaryDirectory(), "new");
      const serve = ["serve", "--port", "0", "--store", `level:${location}`];
      const child = spawn("bash", ["-c", `exec "$0" "$@" ${to}`, process.execPath, await entry(), ...serve]);
      let said = "";
      child.stdout.on("data", (data) => {
        said += data;
      });
      const saysMore = to.startsWith("2>");
      const control = join(location, "coppice-control.json");
      await until("it serves", () => (saysMore ? said.includes("Ctrl-C stops it") : existsSync(control)));
      // Nothing that failed may end it a moment later.
      await new Promise((resolve) => setTimeout(resolve, 500));
      expect([to, child.exitCode]).toEqual([to, null]);
      child.kill("SIGTERM");
      const [code] = await once(child, "close");
      expect([to, code]).toEqual([to, 0]);
      if (saysMore) expect(said).toContain("stopped; all is saved\n");
    }
  });
});

describe("pipes and terminals", () => {
  test("[CL6] in a pipe nothing but results is written: no progress, no colour", async () => {
    for (const args of [["check"], ["compact", "--all", "--dry-run"], ["conformance", "memory:"]]) {
      const store = args[0] === "conformance" ? [] : ["-s", small.url];
      const { stdout, stderr } = await coppice([...args, ...store]);
      expect(stderr).toBe("");
      expect(stdout).not.toContain("\r");
      expect(stdout).not.toContain("\u001b");
    }
  });

  test("[CL6] on a terminal there is a progress line, and it is gone at the end", async (context) => {
    context.skip(noTerminalReason !== undefined, noTerminalReason);
    const { url } = await makeMany();
    const { stdout } = await (await startOnTerminal(["compact", "--all", "-s", url])).ended;
    const lines = stdout.split("\r\u001b[K");
    expect(lines[1]).toMatch(/^compacting {2}\[[#.]{24}\] +\d+% {2}\d+\/400/);
    expect(lines.at(-1)).toMatch(/^compacted 400 of 400 documents, /);
  });

  test("[CL41] an export is poured over no terminal", async (context) => {
    context.skip(noTerminalReason !== undefined, noTerminalReason);
    const { code, stdout } = await (await startOnTerminal(["export", "a", "-s", small.url])).ended;
    expect([code, stdout]).toEqual([2, expect.stringContaining("binary: name a file, or redirect")]);
    expect(stdout).not.toContain("\0");
  });

  test("[CL5] colours are on terminals, and NO_COLOR takes them away there too", async (context) => {
    context.skip(noTerminalReason !== undefined, noTerminalReason);
    const coloured = await (await startOnTerminal(["check", "a", "-s", small.url])).ended;
    expect(coloured.stdout).toContain("\u001b[32mok\u001b[39m");
    const options = { env: { NO_COLOR: "1" } };
    const plain = await (await startOnTerminal(["check", "a", "-s", small.url], options)).ended;
    expect(plain.stdout).toContain("ok 1 document");
    expect(plain.stdout.replaceAll("\r\u001b[K", "")).not.toContain("\u001b[3");
  });

  test("[CL4] an id cannot steer the terminal that shows it", async (context) => {
    context.skip(noTerminalReason !== undefined, noTerminalReason);
    const { stdout } = await (await startOnTerminal(["ls", "--long", "-s", small.url])).ended;
    expect(stdout).toContain("c\\u001b[31m");
    expect(stdout).not.toContain("\u001b[31m");
  });

  test("[CL43] on a terminal erase asks, and no removes nothing", async (context) => {
    context.skip(noTerminalReason !== undefined, noTerminalReason);
    const { url, location } = await makeStore((storage) => storage.append("only one", events));
    const answer = async (text: string) => {
      const run = await startOnTerminal(["erase", "only one", "-s", url]);
      await run.says('Erase "only one", without a way back? [y/N]');
      run.child.stdin?.write(text);
      return run.ended;
    };
    const refused = await answer("\r");
    expect([refused.code, refused.stdout.includes("nothing was erased")]).toEqual([1, true]);
    expect((await answer("\u0003")).code).toBe(130);
    expect((await coppice(["ls", "-s", url])).stdout).toBe("only one\n");
    expect((await answer("y\r")).code).toBe(0);
    expect((await coppice(["ls", "-s", url])).stdout).toBe("");
    expect(await filesHolding(location, new TextEncoder().encode("only one"))).toEqual([]);
  });

  test("[CL10] on a terminal rm asks, and no removes nothing", async (context) => {
    context.skip(noTerminalReason !== undefined, noTerminalReason);
    const { url } = await makeStore((storage) => storage.append("only", events));
    const answer = async (text: string) => {
      const run = await startOnTerminal(["rm", "only", "-s", url]);
      await run.says('Remove "only"? [y/N]');
      run.child.stdin?.write(text);
      return run.ended;
    };
    expect((await answer("\r")).code).toBe(1);
    expect((await answer("\u0003")).code).toBe(130);
    expect((await coppice(["ls", "-s", url])).stdout).toBe("only\n");
    expect((await answer("y\r")).code).toBe(0);
    expect((await coppice(["ls", "-s", url])).stdout).toBe("");
  });
});
