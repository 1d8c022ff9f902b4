// The page is built beside the server's own files, after them: `tsup` empties `dist` first.
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const here = fileURLToPath(new URL(".", import.meta.url));

export default defineConfig({
  root: here,
  base: "./",
  logLevel: "warn",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  resolve: { conditions: ["@coppice/source", "module", "browser", "import", "default"] },
  build: {
    outDir: fileURLToPath(new URL("../dist/page", import.meta.url)),
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    // What is bundled wants its licences to go along.
    license: { fileName: "licenses.md" },
    chunkSizeWarningLimit: 1024,
  },
});
