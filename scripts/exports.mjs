/**
 * Checks that what the packages promise in `exports` and `bin` was built: every file is there, every entry can be
 * imported by plain Node without our source condition, and has at least one named and no default export.
 *
 * Run after the build. Prints one line for each broken entry and exits 1.
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const root = resolve(import.meta.dirname, "..");
const broken = [];
let entryCount = 0;

for (const folder of readdirSync(join(root, "packages"))) {
  const home = join(root, "packages", folder);
  if (!existsSync(join(home, "package.json"))) continue;
  const manifest = JSON.parse(readFileSync(join(home, "package.json"), "utf8"));
  const exported = manifest.publishConfig?.exports ?? manifest.exports ?? {};
  for (const [subpath, entry] of Object.entries(exported))
    await checkEntry(home, manifest.name, subpath, entry);
  for (const [command, path] of Object.entries(manifest.bin ?? {})) checkCommand(home, command, path);
}

for (const line of broken) console.log(line);
console.log(`${entryCount} entries, ${broken.length} broken`);
process.exit(broken.length > 0 ? 1 : 0);

async function checkEntry(home, name, subpath, entry) {
  const files = typeof entry === "string" ? { default: entry } : entry;
  const title = `${name} ${subpath}`;
  const missing = Object.entries(files).filter(([, path]) => !existsSync(join(home, path)));
  entryCount++;
  for (const [condition, path] of missing)
    broken.push(`${title}: ${condition} names ${path}, which was not built`);
  if (missing.length > 0 || !files.default.endsWith(".js")) return;
  try {
    const names = Object.keys(await import(pathToFileURL(join(home, files.default)).href));
    if (names.length === 0) broken.push(`${title}: exports nothing`);
    if (names.includes("default")) broken.push(`${title}: has a default export`);
  } catch (error) {
    broken.push(`${title}: cannot be imported: ${error.message}`);
  }
}

function checkCommand(home, command, path) {
  entryCount++;
  const file = join(home, path);
  if (!existsSync(file)) broken.push(`bin ${command}: ${path} was not built`);
  else if (!readFileSync(file, "utf8").startsWith("#!/usr/bin/env node\n"))
    broken.push(`bin ${command}: ${path} does not begin with #!/usr/bin/env node`);
  else if (statSync(file).size < 100) broken.push(`bin ${command}: ${path} is empty`);
}
