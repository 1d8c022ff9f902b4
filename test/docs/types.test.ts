/**
 * The types that the packages ship: whoever compiles against them, without `skipLibCheck` too, has all that they
 * import. Looks at the built packages, because users have nothing else.
 */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";
import { expect, test } from "vitest";
import { ROOT } from "../support/docs.js";

interface Manifest {
  readonly dependencies?: Record<string, string>;
  readonly peerDependencies?: Record<string, string>;
  readonly publishConfig?: { readonly exports?: Record<string, string | { readonly types?: string }> };
}

const read = (path: string): string => readFileSync(path, "utf8");

/** Packages that the declarations import, without those that a declaration file of Node's own declares. */
function imported(folder: string): Set<string> {
  const names = new Set<string>();
  for (const file of readdirSync(folder, { recursive: true, encoding: "utf8" })) {
    if (!file.endsWith(".d.ts")) continue;
    for (const [, name = ""] of read(join(folder, file)).matchAll(/(?:from |import\()"([^". ][^" ]*)"/g)) {
      const [first = "", second = ""] = name.split("/");
      if (!name.startsWith("node:")) names.add(first.startsWith("@") ? `${first}/${second}` : first);
    }
  }
  return names;
}

function hasTypes(folder: string): boolean {
  const manifest = read(join(folder, "package.json"));
  return /"(?:types|typings)"|\.d\.[cm]?ts/.test(manifest) || existsSync(join(folder, "index.d.ts"));
}

test.each(readdirSync(join(ROOT, "packages")))(
  "[DOC7] the types of %s import only what comes with it, and has types",
  (name) => {
    const folder = join(ROOT, "packages", name);
    const manifest = JSON.parse(read(join(folder, "package.json"))) as Manifest & { readonly name: string };
    const there = { ...manifest.dependencies, ...manifest.peerDependencies };
    expect(readdirSync(join(folder, "dist")).length).toBeGreaterThan(0);
    const missing = [...imported(join(folder, "dist"))].filter((each) => {
      if (each === manifest.name) return false;
      const typed = each in there && hasTypes(join(folder, "node_modules", each));
      return !typed && !(`@types/${each}` in there);
    });
    expect(missing).toEqual([]);
  },
);

/** What the declarations that we ship say wrong, for whoever compiles strictly and has them checked. */
function mistakes(declarations: readonly string[], options: ts.CompilerOptions): string[] {
  const program = ts.createProgram(declarations, {
    ...{ target: ts.ScriptTarget.ES2022, lib: ["lib.es2023.d.ts", "lib.dom.d.ts"], types: ["node"] },
    ...{ typeRoots: [join(ROOT, "node_modules", "@types")], strict: true, exactOptionalPropertyTypes: true },
    ...{ noUncheckedIndexedAccess: true, skipLibCheck: false, noEmit: true, ...options },
  });
  const ours = program.getSourceFiles().filter(({ fileName }) => /packages\/[^/]+\/dist\//.test(fileName));
  expect(ours.length).toBeGreaterThan(declarations.length);
  return ours
    .flatMap((file) => [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)])
    .map(
      ({ file, messageText }) => `${file?.fileName}: ${ts.flattenDiagnosticMessageText(messageText, " ")}`,
    );
}

test.each([
  ["node16", { module: ts.ModuleKind.Node16, moduleResolution: ts.ModuleResolutionKind.Node16 }],
  ["bundler", { module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler }],
])("[DOC7] the types of all packages compile without skipLibCheck, resolved as by %s", (_name, options) => {
  const declarations = readdirSync(join(ROOT, "packages")).flatMap((name) => {
    const folder = join(ROOT, "packages", name);
    const { publishConfig } = JSON.parse(read(join(folder, "package.json"))) as Manifest;
    return Object.values(publishConfig?.exports ?? {}).flatMap((entry) =>
      typeof entry === "string" || entry.types === undefined ? [] : [join(folder, entry.types)],
    );
  });
  expect(declarations.length).toBeGreaterThan(10);
  expect(mistakes(declarations, options)).toEqual([]);
});
