/**
 * Tables of the pages that repeat what the code says are compared with the code. The words around them are not.
 * The table of exit codes needs the built command line.
 */

import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  CoppiceError,
  DocumentHandle,
  DocumentStorage,
  ERROR_CODES,
  LIMITS,
  memoryBackend,
  tree,
} from "coppice";
import { expect, test } from "vitest";
import { ROOT } from "../support/docs.js";

type Calls = Record<string, (...given: unknown[]) => unknown>;

const read = (path: string) => readFileSync(join(ROOT, path), "utf8");

/** Rows of the tables of a page, as trimmed cells. */
function rowsOf(page: string): string[][] {
  const lines = page.split("\n").filter((line) => line.startsWith("| "));
  return lines.map((line) => {
    const cells = line.split(/(?<!\\)\|/).slice(1, -1);
    return cells.map((cell) => cell.trim());
  });
}

function amount(text: string): number {
  const [, digits = "", unit = ""] = /^([\d,]+)(?: (KiB|MiB))?$/.exec(text) ?? [];
  return Number(digits.replaceAll(",", "")) * (unit === "MiB" ? 1024 ** 2 : unit === "KiB" ? 1024 : 1);
}

test("[DOC3] the page of known limits names every maximum with its value", () => {
  const told = rowsOf(read("docs/limits-known.md"))
    .map(([name = "", value = ""]) => [/^`(\w+)`$/.exec(name)?.[1], amount(value)] as const)
    .filter(([name]) => name !== undefined);
  expect(Object.fromEntries(told)).toEqual(LIMITS);
});

test("[DOC4] the page of errors says the kind of each code, and what was written", () => {
  const sections = read("docs/errors.md").split(/^## /m);
  for (const code of ERROR_CODES) {
    const section = sections.find((text) => text.startsWith(`\`${code}\``)) ?? "";
    expect(section, code).toContain(`Kind \`${new CoppiceError(code, "").kind}\`.`);
    expect(section, code).toMatch(/written|opened|trimmed/);
  }
});

test("[DOC5] the page of guarantees has every public call of a storage and of a handle", () => {
  const page = read("docs/guarantees.md");
  const calls = (prototype: object) =>
    Object.entries(Object.getOwnPropertyDescriptors(prototype))
      .filter(
        ([name, { value }]) =>
          typeof value === "function" &&
          !["constructor", "settle", "abandon", "displace", "finish", "resume"].includes(name),
      )
      .map(([name]) => name);
  const missing = [
    ...calls(DocumentStorage.prototype).map((name) => `storage.${name}`),
    ...calls(DocumentHandle.prototype).map((name) => `handle.${name}`),
  ].filter((name) => !new RegExp(`\`${name.replace(".", "\\.")}\\b`).test(page));
  expect(missing).toEqual([]);
});

test("[DOC9] the page of options has every option of each call, and no other", async () => {
  const told = new Map<string, Set<string>>();
  let calls: string[] = [];
  for (const [call = "", options = ""] of rowsOf(read("docs/options.md"))) {
    if (call !== "") calls = [...call.matchAll(/`([\w.]+)`/g)].map(([, name = ""]) => name);
    for (const name of calls) {
      const names = told.get(name) ?? new Set();
      for (const [, option = ""] of options.matchAll(/`(\w+)`/g)) names.add(option);
      told.set(name, names);
    }
  }
  const backend = memoryBackend();
  const models = [tree()] as const;
  const storage = await DocumentStorage.open({ backend, models });
  const handle = await storage.open("d");
  /** What comes before the options. */
  const given: Readonly<Record<string, readonly unknown[]>> = {
    ...{
      open: ["d"],
      load: ["d"],
      append: ["d", []],
      read: ["d"],
      subscribe: ["d"],
      list: [],
      check: [],
      info: ["d"],
    },
    ...{ compact: ["d"], compactAll: [], erase: ["d"], fork: ["d", "e"], export: ["d"], import: [[]] },
    ...{ copyTo: [storage], close: [], "DocumentStorage.open": [] },
    ...{ "handle.save": [], "handle.waitDurable": [0], "handle.close": [], "handle.compact": [] },
  };
  expect([...told.keys()].sort()).toEqual(Object.keys(given).sort());
  for (const [call, before] of Object.entries(given)) {
    const target = call.startsWith("handle.") ? handle : call.includes(".") ? DocumentStorage : storage;
    const name = call.slice(call.indexOf(".") + 1);
    const run = async () => (target as unknown as Calls)[name]!(...before, { misspelt: 1 });
    const { message } = (await run().catch((error: unknown) => error)) as Error;
    const there = / has no option misspelt; there are (.*)$/.exec(message)?.[1]?.split(", ");
    expect([...told.get(call)!].sort(), call).toEqual(there?.sort());
  }
  await storage.close();
});

test("[DOC8] each fault on the page of guarantees names rules that there are, or is said not to be survived", () => {
  const rules = new Set([...read("docs/spec.md").matchAll(/^\| ([A-Z]+\d+) \|/gm)].map(([, rule]) => rule));
  const page = read("docs/guarantees.md");
  const tables = page.split("\n\n").filter((table) => /^\| fault \|/.test(table));
  expect(tables).toHaveLength(2);
  let named = 0;
  for (const [fault, ...cells] of tables.flatMap((table) => rowsOf(table).slice(2))) {
    const shown = cells
      .at(-1)!
      .split(", ")
      .filter((rule) => rule !== "");
    expect(
      shown.filter((rule) => !rules.has(rule)),
      fault,
    ).toEqual([]);
    named += shown.length;
    if (shown.length > 0) continue;
    expect(
      cells.slice(0, -1).every((cell) => /neither|not (survived|detected|supported)|same|^$/.test(cell)),
      fault,
    ).toBe(true);
  }
  expect(named).toBeGreaterThan(60);
});

test("[DOC6] the exit codes on the page of operating are those of the command", () => {
  const command = join(ROOT, "packages/cli/dist/main.js");
  const { stdout, status } = spawnSync(process.execPath, [command, "--help"], { encoding: "utf8" });
  expect(status).toBe(0);
  const help = /Exit codes:\n([\s\S]*?)\n\n/.exec(stdout)?.[1] ?? "";
  const codes = [...help.matchAll(/^ {2}(\d+) +(\S.*)$/gm)].map((match) => match[1]);
  const told = rowsOf(read("docs/operating.md")).map(([code = ""]) => code);
  expect(codes.length).toBeGreaterThan(5);
  expect(told.filter((code) => /^\d+$/.test(code))).toEqual(codes);
});
