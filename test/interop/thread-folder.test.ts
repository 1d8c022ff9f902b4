// Folding in a thread needs built files, so it is tested in a process of its own that uses them.

import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const child = fileURLToPath(new URL("./children/fold-in-thread.mjs", import.meta.url));
const run = async (how: string) =>
  JSON.parse((await promisify(execFile)(process.execPath, [child, how])).stdout);

test("[ST60] a large document is folded and verified in a thread, and the process ends by itself", async () => {
  expect(await run("thread")).toEqual({ outcome: "compacted", same: true, threads: 1, onMain: 0 });
});

test("[ST61] where the thread cannot import the model, folding happens on the calling thread", async () => {
  const { onMain, ...rest } = await run("no-module");
  expect(rest).toEqual({ outcome: "compacted", same: true, threads: 1 });
  expect(onMain).toBeGreaterThan(0);
});

test.for(["automerge", "loro"])("[ST60] documents of %s are folded in a thread as well", async (kind) => {
  const models = fileURLToPath(new URL("./children/fold-models-in-thread.mjs", import.meta.url));
  const { stdout } = await promisify(execFile)(process.execPath, [models, kind]);
  expect(JSON.parse(stdout)).toEqual({ outcome: "compacted", same: true, threads: 1, onMain: 0 });
});
