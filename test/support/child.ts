/**
 * Runs TypeScript in a process of its own: for tests that kill, trace or starve a child. A child script cannot
 * be started from its source, because Node resolves packages to their `dist`, which tests do not build; so it is
 * bundled together with the sources of our packages into one file that Node runs.
 *
 * Packages of npm stay outside the bundle, by absolute path: native ones must, and a bundle may then lie anywhere.
 */

import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { isAbsolute, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build, type Plugin } from "vite";

const conditions = ["@coppice/source", "import", "module", "node", "default"];
const directory = fileURLToPath(new URL("../../node_modules/.cache/coppice-children", import.meta.url));
const bundles = new Map<string, Promise<string>>();

/** The path of a runnable `.mjs` made of this TypeScript file; bundled once in each process (about 0.1 s). */
export async function bundleChild(entry: string): Promise<string> {
  const path = resolve(entry);
  const known = bundles.get(path) ?? bundle(path);
  bundles.set(path, known);
  return known;
}

async function bundle(entry: string): Promise<string> {
  const result = await build({
    configFile: false,
    envFile: false,
    logLevel: "error",
    plugins: [npmPackagesOutside()],
    resolve: { conditions },
    ssr: { noExternal: true, resolve: { conditions } },
    build: {
      ssr: entry,
      write: false,
      target: "node20",
      minify: false,
      rollupOptions: {
        output: { format: "es", entryFileNames: "[name].mjs", chunkFileNames: "[name]-[hash].mjs" },
      },
    },
  });
  const chunks = "output" in result ? result.output.filter((output) => output.type === "chunk") : [];
  const [first] = chunks;
  if (first === undefined) throw new Error(`bundling ${entry} made nothing`);
  return join(await store(first.name, chunks), first.fileName);
}

/** The name follows the content, and the folder appears whole: other test processes may be doing the same. */
async function store(
  name: string,
  files: readonly { readonly fileName: string; readonly code: string }[],
): Promise<string> {
  const digest = createHash("sha256");
  for (const { fileName, code } of files) digest.update(JSON.stringify([fileName, code]));
  const path = join(directory, `${name}-${digest.digest("hex").slice(0, 16)}`);
  if (existsSync(path)) return path;
  const made = `${path}.${process.pid}`;
  await mkdir(made, { recursive: true });
  for (const { fileName, code } of files) await writeFile(join(made, fileName), code);
  try {
    await rename(made, path);
  } catch (error) {
    await rm(made, { recursive: true });
    if (!existsSync(path)) throw error;
  }
  return path;
}

function npmPackagesOutside(): Plugin {
  return {
    name: "npm-packages-outside",
    enforce: "pre",
    async resolveId(source, importer, options) {
      if (importer === undefined || source.startsWith(".") || isAbsolute(source)) return null;
      const found = await this.resolve(source, importer, { ...options, skipSelf: true });
      if (found === null || !/[\\/]node_modules[\\/]/.test(found.id)) return found;
      return { id: pathToFileURL(found.id).href, external: true };
    },
  };
}
