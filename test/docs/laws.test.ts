/**
 * The laws script against two small trees: one that keeps every law, and the same tree with each law broken once.
 * A law that is never broken here could be removed without notice.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { ROOT } from "../support/docs.js";

const HEADER = "/**\n * What it is for.\n * What it does not do.\n */\n";
const hole = (code: string) => ["$", `{${code}}`].join("");
const core = "packages/core/src";
const rule = (id: string) => `[${id}]`;

const SOUND: Record<string, string> = {
  ".ci/run": "#!/usr/bin/env bash\n",
  "README.md": "# Tree\n\nRun `npm test`; see [the rules](docs/spec.md#the-rules).\n",
  "docs/spec.md": "# Spec\n\n## The rules\n\n| BK1 | A commit is whole. |\n| BK2 | A page is consistent. |\n",
  "docs/errors.md": "# Errors\n\n## `CLOSED`\n",
  "package.json": '{ "private": true, "devDependencies": { "vitest": "4.1.12" } }\n',
  "pnpm-lock.yaml": "lockfileVersion: '9.0'\n",
  "packages/core/package.json": '{ "name": "coppice", "version": "0.1.0" }\n',
  "packages/level/package.json": '{ "name": "@coppice/level", "version": "0.1.0" }\n',
  [`${core}/index.ts`]: '/** The public names. */\nexport { now } from "./base/env.js";\n',
  [`${core}/base/env.ts`]: `${HEADER}export const now = (): number => Date.now();\n`,
  [`${core}/base/errors.ts`]: `${HEADER}const KINDS = {\n  CLOSED: "closed",\n} as const;\n`,
  [`${core}/base/limits.ts`]: `${HEADER}export const LIMITS = {\n  idBytesMax: 512,\n};\n`,
  [`${core}/contract/backend.ts`]:
    `${HEADER}import { now } from "../base/env.js";\n// console.log(Date.now()) is only text here\n` +
    'export const text = "console.log(setTimeout)" + /Date.now(`/.source;\n' +
    `const shown = \`${hole("now()")} new Date()\`;\n`,
  [`${core}/control/offer.ts`]: `${HEADER}import "node:net";\nimport "../storage/state.js";\n`,
  [`${core}/storage/state.ts`]: `${HEADER}import "../contract/backend.js";\n`,
  [`${core}/conformance/cases.ts`]: `${HEADER}export const CASES = [{ rule: "BK2", title: "pages" }];\n`,
  "packages/level/src/index.ts": '/** LevelDB. */\nimport { now } from "coppice";\n',
  "packages/server/page/main.tsx":
    `${HEADER}import { render } from "preact";\nimport "@coppice/server/client";\nimport "./parts.js";\n` +
    "render(<p class='a'>{one} / <b>two</b> <br /></p>);\nconsole.log(1);\n",
  "packages/core/test/backend.test.ts":
    `test("${rule("BK1")} a closed backend rejects with CLOSED", (context) => {\n` +
    '  context.skip(true, "strace is not here");\n});\n',
};

/** Each broken file, its text, and the findings as `line: beginning of the message`. */
const BROKEN: Record<string, [text: string, ...findings: string[]]> = {
  "README.md": [
    "# Tree\n\n[gone](docs/gone.md) and [no heading](docs/spec.md#nowhere) in /tmp/x\n\n# Second title\n",
    "1: does not name npm test",
    "3: a path of one machine",
    "3: no heading for #nowhere in docs/spec.md",
    "3: the link leads nowhere: docs/gone.md",
    "5: one page, one title",
  ],
  "docs/notes.md": [
    `# Notes\n\n${"TO"}${"DO"}: more, in ${"/wo"}${"rk/x"}\n`,
    "3: a path of one machine belongs",
    "3: unfinished marks",
  ],
  "docs/spec.md": [
    "# Spec\n\n## The rules\n\n| BK1 | A. |\n| BK1 | B. |\n| BK2 | C. |\n| BK3 | D. |\n",
    "6: BK1 is defined twice",
    "8: no test title names [BK3]",
  ],
  "docs/errors.md": ["# Errors\n\n## `OPENED`\n", "3: OPENED is no code"],
  "pnpm-lock.yaml": [`a:\n  tarball: ${"http"}s://registry.invalid/a.tgz\n`, "2: the lockfile names a host"],
  "packages/level/package.json": [
    '{ "name": "@coppice/level", "version": "0.2.0",\n"dependencies": { "classic-level": "^3.0.0" },\n' +
      '"exports": { ".": { "@coppice/source": "./src/index.ts", "default": "./dist/index.js" } } }\n',
    "1: all packages have one version",
    "1: publishConfig.exports differs",
    "2: classic-level is not pinned exactly",
  ],
  [`${core}/base/errors.ts`]: [
    `${HEADER}const KINDS = {\n  CLOSED: "closed",\n  LOCKED: "busy",\n} as const;\n`,
    "6: CLOSED has no heading",
    "7: LOCKED has no heading",
    "7: LOCKED occurs in no test",
  ],
  [`${core}/base/limits.ts`]: [
    `${HEADER}export const LIMITS = {\n  idMax: 512,\n};\n`,
    "6: idMax does not name its unit",
  ],
  [`${core}/base/upward.ts`]: [
    `${HEADER}import "../contract/backend.js";\n`,
    "5: base never imports contract",
  ],
  [`${core}/contract/entry.ts`]: [
    `${HEADER}import { now } from "../index.js";\n`,
    "5: contract imports the entry",
  ],
  [`${core}/storage/log.ts`]: [
    `${HEADER}import type { A } from "../backends/memory.js";\nimport { b } from "../graph/graph.js";\n`,
    "5: storage never imports backends",
    "6: storage never imports graph",
  ],
  [`${core}/backends/memory.ts`]: [
    `${HEADER}export { log } from "../storage/log.js";\nconst layer = await import("../layers/cache.js");\n`,
    "5: backends never imports storage",
    "6: backends never imports layers",
  ],
  [`${core}/testing/kit.ts`]: [`${HEADER}import "../storage/log.js";\n`, "5: testing never imports storage"],
  [`${core}/index.ts`]: [
    '/** The public names. */\nexport { offer } from "./control/offer.js";\n',
    "2: control needs Node: it is an entry of its own",
  ],
  [`${core}/storage/remote.ts`]: [
    `${HEADER}import "../control/offer.js";\n`,
    "5: control needs Node: it is an entry of its own",
  ],
  [`${core}/control/loader.ts`]: [
    `${HEADER}import "node:fs";\nimport "../backends/memory.js";\nsetTimeout(f);\n`,
    "6: control never imports backends",
    "7: `",
  ],
  [`${core}/attic/old.ts`]: [`${HEADER}import "../base/env.js";\n`, "5: attic is not a room"],
  [`${core}/contract/node.ts`]: [
    `${HEADER}import "node:fs";\nimport "path";\nimport "coppice";\nimport "../../../level/src/index.js";\n`,
    "5: core is browser-safe: no node:fs",
    "6: core is browser-safe: no path",
    "7: core imports itself by relative paths",
    "8: imports packages/level/src/index.js, outside",
  ],
  [`${core}/contract/time.ts`]: [
    `${HEADER}Date.now();\nnew Date(0);\nperformance.now();\nMath.random();\ncrypto.randomUUID();\n` +
      "setTimeout(f);\nsetInterval(f);\nglobalThis.setImmediate(f);\nqueueMicrotask(f);\n" +
      `\`${hole("Date.now()")}\`;\n`,
    ...[5, 6, 7, 8, 9, 10, 11, 12, 13, 14].map((line) => `${line}: \``),
  ],
  [`${core}/contract/BadName.ts`]: [HEADER, "1: file names are kebab-case"],
  [`${core}/contract/bare.ts`]: ["/** One line. */\nexport const a = 1;\n", "1: begins with a block comment"],
  [`${core}/contract/long.ts`]: [HEADER + "a();\n".repeat(597), "1: 601 lines"],
  [`${core}/contract/wide.ts`]: [`${HEADER}${"a".repeat(111)}\n`, "5: over 110 columns"],
  [`${core}/contract/words.ts`]: [
    `${HEADER}export * from "./wide.js";\nexport default 1;\nconsole.log(1);\n` +
      "try { a(); } catch (error) {\n}\nvoid a().catch(() => {});\n",
    "5: no `export *`",
    "6: no default exports",
    "7: libraries never write to the console",
    "8: an empty catch",
    "10: an empty catch",
  ],
  "packages/level/src/index.ts": [
    '/** LevelDB. */\nimport "coppice/storage";\nimport "@coppice/yjs";\n',
    "2: coppice/storage is no export of core",
    "3: only the CLI loads backends and models",
  ],
  "packages/server/page/main.tsx": [
    `${HEADER}import "node:fs";\nimport "coppice";\nimport "../src/index.js";\n` +
      "const one = <p>{a} <b>c</b><br />{b}</p>;\nexport default one;\n",
    "5: the page runs in browsers",
    "6: the page talks to the server over HTTP",
    "7: imports packages/server/src/index.js, outside the page",
    "9: no default exports",
  ],
  "packages/core/test/backend.test.ts": [
    `test("${rule("BK1")} one", () => {});\ntest("${rule("BK9")} two", (context) => context.skip());\n` +
      `test${".only"}("${rule("BK1")} three", () => {});\ntest${".skip"}("${rule("BK1")} four", () => {});\n` +
      'test("no rule", () => {});\nimport "../../level/src/index.js";\n// CLOSED\nconst code = "CLOSED";\n',
    "2: [BK9] is not defined",
    "2: a skip owes a reason",
    "3: a focused test",
    "4: skip inside the test",
    "5: a test title begins with its rule",
    "6: imports packages/level/src/index.js: other packages",
  ],
};

const folders: string[] = [];
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

function laws(tree: Record<string, string>, ciRunMode = 0o755): { code: number | null; lines: string[] } {
  const folder = mkdtempSync(join(tmpdir(), "coppice-laws-"));
  folders.push(folder);
  for (const [path, text] of Object.entries(tree)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text, { mode: path === ".ci/run" ? ciRunMode : 0o644 });
  }
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(ROOT, "scripts/laws.mjs"), folder], {
    encoding: "utf8",
  });
  expect(stderr).toBe("");
  return { code: status, lines: stdout.split("\n").filter((line) => line !== "") };
}

describe("laws", () => {
  test("[LAW1] a tree that keeps every law passes in silence", () => {
    expect(laws(SOUND)).toEqual({ code: 0, lines: [] });
  });

  const texts = Object.entries(BROKEN).map(([path, [text]]) => [path, text]);
  const found = laws({ ...SOUND, ...Object.fromEntries(texts) }, 0o644);

  for (const [path, [, ...expected]] of Object.entries(BROKEN))
    test(`[LAW2] what is wrong in ${path} is found, at its line, and nothing else`, () => {
      const lines = found.lines
        .filter((line) => line.startsWith(`${path}:`))
        .map((line) => line.slice(path.length + 1));
      const matched = lines.map(
        (line) => expected.find((one) => line.startsWith(one)) ?? `unexpected ${line}`,
      );
      expect(matched.sort()).toEqual([...expected].sort());
    });

  test("[LAW2] a broken law fails the run, and a .ci/run that cannot be executed breaks one", () => {
    expect(found.code).toBe(1);
    expect(found.lines).toContain(".ci/run:1: must exist and be executable");
  });

  test("[LAW3] missing pages of rules and errors are a notice, not a failure", () => {
    const { "docs/spec.md": _spec, "docs/errors.md": _errors, ...tree } = SOUND;
    const { code, lines } = laws({ ...tree, "README.md": "# Tree\n\n`npm test`\n" });
    expect(code).toBe(0);
    expect(lines.filter((line) => line.startsWith("notice: ")).length).toBe(2);
  });
});
