import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

// Tests run against the sources: the export condition below is dropped from published manifests.
const conditions = ["@coppice/source", "import", "module", "node", "default"];

// An isolated file gets a process of its own, at about 0.2 s: for tests that kill, trace, or change globals, and
// for one that takes four times as long beside what others have left in memory.
const isolated = [
  "test/crash/**/*.test.ts",
  "packages/*/test/**/*.isolated.test.ts",
  "test/**/*.isolated.test.ts",
];

export default defineConfig({
  root: fileURLToPath(new URL("..", import.meta.url)),
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: ["@coppice/source"] } },
  test: {
    pool: "forks",
    maxWorkers: "100%",
    setupFiles: ["test/support/seed.ts"],
    teardownTimeout: 10_000,
    projects: [
      {
        extends: true,
        test: {
          name: "shared",
          include: ["packages/*/test/**/*.test.ts", "test/**/*.test.ts"],
          exclude: ["**/node_modules/**", "**/dist/**", ...isolated],
          isolate: false,
          testTimeout: 120_000,
          hookTimeout: 60_000,
        },
      },
      {
        extends: true,
        test: {
          name: "isolated",
          include: isolated,
          exclude: ["**/node_modules/**", "**/dist/**"],
          isolate: true,
          testTimeout: 120_000,
          hookTimeout: 60_000,
        },
      },
    ],
  },
});
