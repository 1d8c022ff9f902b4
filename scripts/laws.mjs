/**
 * The laws of the house: everything that design and style promise and that a text search can decide.
 *
 * Prints `file:line: message` for each broken law and exits 1. Reads files only; knows no TypeScript, needs no
 * package, and takes under two seconds. What needs types belongs to `tsc`, what needs a parser to biome.
 * `docs/style.md` explains the laws; `test/docs/laws.test.ts` breaks each of them once.
 *
 * usage: node scripts/laws.mjs [root]
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { builtinModules } from "node:module";
import { join, posix, resolve } from "node:path";
import { markSource } from "./source-text.mjs";

const FILE_LINES_MAX = 600;
const LINE_COLUMNS_MAX = 110;
const NOT_OURS = new Set(["node_modules", "dist", ".git", "coverage", "data", "playground", ".tmp"]);
const TEXT = /\.(ts|tsx|mts|mjs|js|css|html|json|md|yaml|yml)$|(^|\/)\.ci\/run$/;
const CODE = /\.(ts|tsx|mts|mjs|js)$/;
const PUBLIC_CORE = new Set([
  "coppice",
  "coppice/conformance",
  "coppice/conformance/directory",
  "coppice/control",
  "coppice/testing",
]);
const ROOMS = {
  base: ["base"],
  contract: ["contract", "base"],
  storage: ["storage", "contract", "base"],
  backends: ["backends", "contract", "base"],
  layers: ["layers", "contract", "base"],
  graph: ["graph", "contract", "base"],
  conformance: ["conformance", "contract", "base"],
  testing: ["testing", "contract", "base"],
  control: ["control", "storage", "contract", "base"],
  directory: ["directory", "conformance", "contract", "base"],
};
/** Rooms of core that need Node: entries of their own, which nothing else may import. */
const NODE_ROOMS = new Set(["control", "directory"]);
const MAY_PRINT = new Set(["cli", "server"]);
const MAY_LOAD_SATELLITES = new Set(["cli"]);
/** A drop-in brings along what the thing brings along whose place it takes. */
const MAY_BRING = [
  [/^packages\/yjs\/src\/y-leveldb\//, "@coppice/level"],
  [/^packages\/hocuspocus\/src\//, "@coppice/yjs/dropins"],
];

const root = resolve(process.argv[2] ?? join(import.meta.dirname, ".."));
const findings = [];
const notices = [];
const files = walk("").map(readText);
const sources = files.filter((file) => CODE.test(file.path));
const pages = files.filter((file) => file.path.endsWith(".md"));

for (const file of files) checkText(file);
for (const file of sources) checkSource(file);
for (const page of pages) checkPage(page);
checkManifests();
checkRules();
checkErrorCodes();
checkLimits();
checkRoot();

for (const notice of notices) console.log(`notice: ${notice}`);
for (const { path, line, message } of findings) console.log(`${path}:${line}: ${message}`);
if (findings.length > 0) console.log(`laws: ${findings.length} broken`);
process.exitCode = findings.length > 0 ? 1 : 0;

function walk(folder) {
  const found = [];
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = posix.join(folder, entry.name);
    if (entry.isDirectory()) {
      if (!NOT_OURS.has(entry.name)) found.push(...walk(path));
    } else if (entry.isFile() && TEXT.test(path)) found.push(path);
  }
  return found.sort();
}

function readText(path) {
  const text = readFileSync(join(root, path), "utf8");
  const file = { path, text, lines: text.split("\n") };
  return CODE.test(path) ? Object.assign(file, markSource(text)) : file;
}

function report(file, offset, message) {
  const line = file.text.slice(0, Math.max(0, offset)).split("\n").length;
  findings.push({ path: file.path, line, message });
}

function each(file, text, pattern, message) {
  for (const match of text.matchAll(pattern))
    report(file, match.index, typeof message === "function" ? message(match) : message);
}

/** Laws for every text file that we keep. */
function checkText(file) {
  if (file.path === "pnpm-lock.yaml") {
    each(file, file.text, /^(?!.*deprecated).*https?:\/\/.*$/gm, "the lockfile names a host");
    return;
  }
  each(file, file.text, /\/(?:work|farm)\//g, "a path of one machine belongs to no project");
  each(file, file.text, /(?<![A-Za-z])(?:TO(?:DO)|FIX(?:ME)|X(?:XX))(?![A-Za-z])/g, () => {
    return "unfinished marks do not go to main: use an issue, or docs/limits-known.md";
  });
}

function checkSource(file) {
  const packaged = /^packages\/([^/]+)\/(src|page|test)\//.exec(file.path);
  const inSource = packaged !== null && packaged[2] !== "test" && !file.path.endsWith(".config.ts");
  checkShape(file, inSource);
  checkWording(file);
  checkTests(file);
  if (inSource) checkLibrary(file, packaged[1]);
  for (const used of importsOf(file)) {
    if (inSource && packaged[2] === "page")
      checkPageImport(file, posix.join("packages", packaged[1], "page"), used);
    else if (inSource) checkPackageImport(file, packaged[1], used);
    else checkTestImport(file, packaged?.[1], used);
  }
}

function checkShape(file, inSource) {
  const name = posix.basename(file.path);
  if (!/^[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9-]+)*$/.test(name))
    report(file, 0, "file names are kebab-case nouns");
  const lineCount = file.lines.length - (file.text.endsWith("\n") ? 1 : 0);
  if (lineCount > FILE_LINES_MAX)
    report(file, 0, `${lineCount} lines; a file has at most ${FILE_LINES_MAX}: which room is it hiding?`);
  if (!inSource) return;
  file.lines.forEach((line, index) => {
    if ([...line].length > LINE_COLUMNS_MAX)
      findings.push({ path: file.path, line: index + 1, message: `over ${LINE_COLUMNS_MAX} columns` });
  });
  const opening = /^(?:#!.*\n)?\s*\/\*([\s\S]*?)\*\//.exec(file.text);
  const prose = (opening?.[1] ?? "").split("\n").filter((line) => /[A-Za-z]/.test(line)).length;
  const wanted = name === "index.ts" ? 1 : 2;
  if (prose < wanted)
    report(file, 0, "begins with a block comment: what the file is for, does not do, and its invariants");
}

function checkWording(file) {
  each(file, file.bare, /\bexport\s*\*/g, "no `export *`: name what is exported");
  if (!/\.config\.ts$|-reporter\.mjs$/.test(file.path))
    each(file, file.bare, /\bexport\s+default\b|\bas\s+default\b/g, "no default exports");
  for (const match of file.text.matchAll(/\bcatch\s*(?:\([^)]*\)\s*)?\{\s*\}/g))
    if (file.bare.startsWith("catch", match.index))
      report(file, match.index, "an empty catch swallows the error");
}

function checkTests(file) {
  each(file, file.bare, /\.only\s*\(/g, "a focused test hides the others");
  each(
    file,
    file.bare,
    /\b(?:describe|suite|it|test)\s*\.\s*(?:skip|todo|skipIf|runIf|fails)\s*\(/g,
    'skip inside the test, with the reason: `context.skip(condition, "reason")`',
  );
  for (const match of file.bare.matchAll(/(?<!\b(?:describe|suite|it|test)\s*)\.\s*skip\s*\(/g)) {
    const call = argumentsAt(file, match.index + match[0].length);
    if (!/["'`][^"'`]{8,}|reason|because/i.test(call))
      report(file, match.index, "a skip owes a reason in words");
  }
  if (/\.test\.ts$/.test(file.path))
    each(file, file.code, /^\s*(?:it|test)\(\s*["'`](?!\[(?:[A-Z]{2,5}\d+|\$\{rule\})\] )/gm, () => {
      return "a test title begins with its rule: `[ST4] a crash between …`";
    });
}

/** The text between an opening parenthesis and its partner. */
function argumentsAt(file, start) {
  let depth = 1;
  let end = start;
  for (; end < file.bare.length && depth > 0; end++) {
    if (file.bare[end] === "(") depth++;
    if (file.bare[end] === ")") depth--;
  }
  return file.code.slice(start, end - 1);
}

function checkLibrary(file, packageName) {
  if (!MAY_PRINT.has(packageName))
    each(file, file.bare, /(?<![.\w])console\s*\./g, "libraries never write to the console");
  each(file, file.text, /\.catch\(\s*\(\w*\)\s*=>\s*\{\s*\}\s*\)/g, "an empty catch swallows the error");
  if (packageName !== "core" || file.path === "packages/core/src/base/env.ts") return;
  const doors =
    /(?<![\w$.])(?:globalThis\s*\.\s*)?(?:(?:Date\.now|new\s+Date|Math\.random)\b|(?:performance|crypto)\s*\.|(?:setTimeout|setInterval|setImmediate|queueMicrotask|MessageChannel)\b)/g;
  each(file, file.bare, doors, (match) => `\`${match[0].trim()}\`: time, chance and timers come from Env`);
}

function importsOf(file) {
  const found = [];
  const forms = [
    /\b(?:import|export)\b[^;"'`()]*?\bfrom\s*["']([^"']+)["']/g,
    /\bimport\s*["']([^"']+)["']/g,
    /\bimport\s*\(\s*["'`]([^"'`]+)["'`]/g,
  ];
  for (const form of forms)
    for (const match of file.code.matchAll(form))
      if (/^(import|export)/.test(file.bare.slice(match.index, match.index + 6)))
        found.push({ name: match[1], offset: match.index });
  return found;
}

function checkPackageImport(file, packageName, { name, offset }) {
  if (name.startsWith(".")) {
    const target = posix.join(posix.dirname(file.path), name);
    const home = `packages/${packageName}/src/`;
    if (!target.startsWith(home)) report(file, offset, `imports ${target}, outside its own src`);
    else if (packageName === "core")
      checkRoom(file, offset, file.path.slice(home.length), target.slice(home.length));
    return;
  }
  if (packageName === "core") {
    const room = file.path.slice("packages/core/src/".length).split("/")[0];
    if (isNodeModule(name)) {
      if (!NODE_ROOMS.has(room)) report(file, offset, `core is browser-safe: no ${name}`);
    } else if (isOurs(name))
      report(file, offset, "core imports itself by relative paths, and no other package");
    return;
  }
  checkSatelliteName(file, offset, packageName, name);
}

/** A page runs in browsers: it has its own files, packages of npm, and what of ours is made for browsers. */
function checkPageImport(file, home, { name, offset }) {
  const target = posix.join(posix.dirname(file.path), name);
  if (name.startsWith(".") && !target.startsWith(`${home}/`))
    report(file, offset, `imports ${target}, outside the page`);
  if (isNodeModule(name)) report(file, offset, `the page runs in browsers: no ${name}`);
  if (isOurs(name) && name !== "@coppice/server/client")
    report(file, offset, `the page talks to the server over HTTP: no ${name}`);
}

function checkSatelliteName(file, offset, packageName, name) {
  if (name.startsWith("coppice/") && !PUBLIC_CORE.has(name))
    report(file, offset, `${name} is no export of core: use ${[...PUBLIC_CORE].join(", ")}`);
  const brought = MAY_BRING.some(([place, allowed]) => place.test(file.path) && name === allowed);
  if (name.startsWith("@coppice/") && !brought && !MAY_LOAD_SATELLITES.has(packageName))
    report(file, offset, `only the CLI loads backends and models; ${packageName} imports core alone`);
  if (/^@coppice\/[^/]+\/.*src\//.test(name))
    report(file, offset, "no package imports another package's src");
}

function checkRoom(file, offset, from, to) {
  const room = from.split("/")[0];
  const other = to.split("/")[0];
  if (NODE_ROOMS.has(other) && room !== other) {
    report(file, offset, `${other} needs Node: it is an entry of its own, and nothing else imports it`);
    return;
  }
  if (!from.includes("/")) return;
  const allowed = ROOMS[room];
  if (allowed === undefined) report(file, offset, `${room} is not a room of core`);
  else if (!to.includes("/")) report(file, offset, `${room} imports the entry; rooms do not`);
  else if (!allowed.includes(to.split("/")[0]))
    report(file, offset, `${room} never imports ${to.split("/")[0]}: only ${allowed.join(", ")}`);
}

function checkTestImport(file, packageName, { name, offset }) {
  if (name.startsWith(".")) {
    const target = posix.join(posix.dirname(file.path), name);
    const other = /^packages\/([^/]+)\//.exec(target);
    if (other !== null && other[1] !== packageName)
      report(file, offset, `imports ${target}: other packages are imported by name`);
    return;
  }
  if (name.startsWith("coppice/") && !PUBLIC_CORE.has(name) && name !== "coppice/package.json")
    report(file, offset, `${name} is no export of core`);
}

function isNodeModule(name) {
  return name.startsWith("node:") || builtinModules.includes(name);
}

function isOurs(name) {
  return name === "coppice" || name.startsWith("coppice/") || name.startsWith("@coppice/");
}

function checkPage(page) {
  const prose = withoutFences(page.text);
  const titles = [...prose.matchAll(/^# .+$/gm)];
  if (titles.length !== 1)
    report(page, titles[1]?.index ?? 0, `one page, one title (found ${titles.length})`);
  each(page, page.text, /(?<![\w.~}\])/-])\/(?:tmp|home|root|Users|mnt|private)\//g, () => {
    return "a path of one machine; say what the folder is";
  });
  for (const match of prose.matchAll(/\[[^\]]*\]\(([^)\s]+)(?:\s+"[^"]*")?\)/g)) {
    if (/^[a-z]+:/i.test(match[1])) continue;
    const [path, anchor] = match[1].split("#");
    const target = path === "" ? page.path : posix.join(posix.dirname(page.path), decodeURI(path));
    if (!existsSync(join(root, target))) report(page, match.index, `the link leads nowhere: ${match[1]}`);
    else if (anchor && target.endsWith(".md") && !anchorsOf(target).has(anchor))
      report(page, match.index, `no heading for #${anchor} in ${target}`);
  }
}

/** Fenced blocks and inline code become spaces, so that offsets stay. */
function withoutFences(text) {
  const blank = (part) => part.replace(/[^\n]/g, " ");
  return text.replace(/^(`{3,}|~{3,})[\s\S]*?^\1[ \t]*$/gm, blank).replace(/`[^`\n]+`/g, blank);
}

function anchorsOf(path) {
  const text = readFileSync(join(root, path), "utf8").replace(/^(`{3,})[\s\S]*?^\1[ \t]*$/gm, "");
  const slugs = new Set();
  for (const [, heading] of text.matchAll(/^#{1,6} +(.+)$/gm)) {
    const slug = heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N}_ -]/gu, "")
      .trim()
      .replaceAll(" ", "-");
    let unique = slug;
    for (let n = 1; slugs.has(unique); n++) unique = `${slug}-${n}`;
    slugs.add(unique);
  }
  return slugs;
}

/** Exact pins, one version, and published exports that are the development ones without our condition. */
function checkManifests() {
  const manifests = files.filter((file) => /^(packages\/[^/]+\/)?package\.json$/.test(file.path));
  const versions = new Set();
  for (const file of manifests) {
    const manifest = JSON.parse(file.text);
    for (const field of ["dependencies", "devDependencies", "optionalDependencies"])
      for (const [name, range] of Object.entries(manifest[field] ?? {}))
        if (!/^(\d+\.\d+\.\d+(-[\w.]+)?|workspace:\*)$/.test(range))
          report(file, file.text.indexOf(`"${name}"`), `${name} is not pinned exactly`);
    if (manifest.private) continue;
    versions.add(manifest.version);
    if (versions.size > 1) report(file, file.text.indexOf('"version"'), "all packages have one version");
    const published = JSON.stringify(manifest.publishConfig?.exports ?? manifest.exports);
    const expected = JSON.stringify(manifest.exports, (key, value) =>
      key === "@coppice/source" ? undefined : value,
    );
    if (published !== expected)
      report(file, file.text.indexOf('"publishConfig"'), "publishConfig.exports differs from exports");
  }
}

/** Each rule of docs/spec.md has a test, and each rule that a test names is in docs/spec.md. */
function checkRules() {
  const spec = files.find((file) => file.path === "docs/spec.md");
  if (spec === undefined) {
    notices.push("docs/spec.md does not exist yet: rule ids were not checked");
    return;
  }
  const defined = new Map();
  for (const match of spec.text.matchAll(/^\|\s*`?([A-Z]{2,5}\d+)`?\s*\|/gm)) {
    if (defined.has(match[1])) report(spec, match.index, `${match[1]} is defined twice`);
    defined.set(match[1], match.index);
  }
  const used = new Set();
  for (const file of sources.filter(holdsTests)) {
    for (const { id, offset } of ruleIdsIn(file)) {
      used.add(id);
      if (!defined.has(id)) report(file, offset, `[${id}] is not defined in docs/spec.md`);
    }
  }
  for (const [id, offset] of defined) if (!used.has(id)) report(spec, offset, `no test title names [${id}]`);
}

function holdsTests(file) {
  return /(^|\/)test\/|^packages\/core\/src\/conformance\//.test(file.path);
}

function* ruleIdsIn(file) {
  for (const match of file.code.matchAll(/(["'`])((?:\[[A-Z]{2,5}\d+\]\s*)+)/g))
    for (const [id] of match[2].matchAll(/[A-Z]+\d+/g)) yield { id, offset: match.index };
  if (!file.path.includes("/conformance/")) return;
  for (const match of file.code.matchAll(/(["'`])([A-Z]{2}\d+)\1/g))
    yield { id: match[2], offset: match.index };
}

/** Each code has a heading in docs/errors.md and a test; no heading is about a code that is gone. */
function checkErrorCodes() {
  const table = sources.find((file) => file.path === "packages/core/src/base/errors.ts");
  if (table === undefined) return;
  const page = files.find((file) => file.path === "docs/errors.md");
  if (page === undefined) {
    notices.push("docs/errors.md does not exist yet: error codes were not checked");
    return;
  }
  const codes = new Map();
  for (const match of table.code.matchAll(/^\s+([A-Z][A-Z_]+):\s*"[a-z]+",?$/gm))
    codes.set(match[1], match.index);
  const headings = new Map();
  for (const match of page.text.matchAll(/^#{2,}\s+`?([A-Z][A-Z_]{3,})`?/gm))
    headings.set(match[1], match.index);
  const tested = sources
    .filter(holdsTests)
    .map((file) => file.code)
    .join("\n");
  for (const [code, offset] of codes) {
    if (!headings.has(code)) report(table, offset, `${code} has no heading in docs/errors.md`);
    if (!new RegExp(`\\b${code}\\b`).test(tested)) report(table, offset, `${code} occurs in no test`);
  }
  for (const [code, offset] of headings)
    if (!codes.has(code)) report(page, offset, `${code} is no code of base/errors.ts`);
}

function checkLimits() {
  const file = sources.find((source) => source.path === "packages/core/src/base/limits.ts");
  if (file === undefined) return;
  const unit =
    /(?:bytes|events|operations|keys|ids|heads|tags|documents|batches|parts|depth|ms|count)(?:Max|Min)?$/i;
  for (const match of file.code.matchAll(/^\s+(?:readonly\s+)?([a-z]\w*):/gm))
    if (!unit.test(match[1])) report(file, match.index, `${match[1]} does not name its unit`);
}

function checkRoot() {
  const run = join(root, ".ci/run");
  const executable = existsSync(run) && (statSync(run).mode & 0o100) !== 0;
  if (!executable) findings.push({ path: ".ci/run", line: 1, message: "must exist and be executable" });
  const readme = pages.find((page) => page.path === "README.md");
  if (readme && !readme.text.includes("npm test")) report(readme, 0, "does not name npm test");
}
