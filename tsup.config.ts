// One run builds the JavaScript of every package; declarations come from `tsc -b`, because tsup's own
// declaration step does not know TypeScript 6 and costs three times as much.
import { defineConfig } from "tsup";

const shared = {
  format: "esm" as const,
  target: "es2022",
  platform: "node" as const,
  sourcemap: true,
  splitting: true,
  clean: true,
  skipNodeModulesBundle: true,
  silent: true,
};

export default defineConfig([
  {
    ...shared,
    platform: "neutral",
    entry: {
      index: "packages/core/src/index.ts",
      "conformance/index": "packages/core/src/conformance/index.ts",
      "testing/index": "packages/core/src/testing/index.ts",
      "directory/index": "packages/core/src/directory/index.ts",
      "control/index": "packages/core/src/control/index.ts",
    },
    outDir: "packages/core/dist",
  },
  { ...shared, entry: { index: "packages/level/src/index.ts" }, outDir: "packages/level/dist" },
  {
    ...shared,
    entry: { index: "packages/file/src/index.ts", "testing/index": "packages/file/src/testing/index.ts" },
    outDir: "packages/file/dist",
  },
  {
    ...shared,
    entry: {
      index: "packages/yjs/src/index.ts",
      "coppice-yjs-thread": "packages/yjs/src/coppice-yjs-thread.ts",
      "dropins/index": "packages/yjs/src/dropins/index.ts",
      "y-leveldb/index": "packages/yjs/src/y-leveldb/index.ts",
    },
    outDir: "packages/yjs/dist",
  },
  {
    ...shared,
    entry: { index: "packages/server/src/index.ts", client: "packages/server/src/client.ts" },
    outDir: "packages/server/dist",
  },
  {
    ...shared,
    entry: {
      index: "packages/automerge/src/index.ts",
      "coppice-automerge-thread": "packages/automerge/src/coppice-automerge-thread.ts",
    },
    outDir: "packages/automerge/dist",
  },
  {
    ...shared,
    entry: {
      index: "packages/loro/src/index.ts",
      "coppice-loro-thread": "packages/loro/src/coppice-loro-thread.ts",
    },
    outDir: "packages/loro/dist",
  },
  { ...shared, entry: { index: "packages/hocuspocus/src/index.ts" }, outDir: "packages/hocuspocus/dist" },
  { ...shared, entry: { main: "packages/cli/src/main.ts" }, outDir: "packages/cli/dist" },
]);
