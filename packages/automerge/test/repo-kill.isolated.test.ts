// A real process on LevelDB that is killed with SIGKILL at each step of a compaction of automerge-repo: it saves the
// snapshot, then removes the chunks that it covers one after the other.

import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { generateAutomergeUrl, parseAutomergeUrl, Repo } from "@automerge/automerge-repo";
import { expect, test } from "vitest";
import { bundleChild } from "../../../test/support/child.js";
import { openAdapter } from "./children/adapters.js";
import { withFolder } from "./folders.js";

const CHILD = fileURLToPath(new URL("./children/compactor.ts", import.meta.url));

async function run(args: readonly string[]): Promise<{ signal: NodeJS.Signals | null; lines: string[] }> {
  const child = spawn(process.execPath, [await bundleChild(CHILD), ...args], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => (output += text));
  const signal = await new Promise<NodeJS.Signals | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (_, killed) => resolve(killed));
  });
  return { signal, lines: output.split("\n").filter((line) => line !== "") };
}

const MOMENTS = {
  AutomergeRepoStorage: [0, 1, 2].flatMap((step) =>
    ["-1", "0", "end"].map((turns) => [step, turns] as const),
  ),
  // Removing does nothing there: what counts is within the save of the snapshot.
  AutomergeRepoDocuments: ["-1", "0", "2", "8", "end"].map((turns) => [0, turns] as const),
};

for (const [name, moments] of Object.entries(MOMENTS)) {
  test(`[AM26] ${name}: a process that was killed at a step of a compaction has lost nothing it was told`, async () => {
    let kills = 0;
    for (const [step, turns] of moments) {
      const { folder, remove } = await withFolder();
      const { documentId } = parseAutomergeUrl(generateAutomergeUrl());
      const { signal, lines } = await run([name, folder, documentId, String(step), turns]);
      if (signal === "SIGKILL") kills++;
      const { adapter, problems, close } = await openAdapter(name, folder);
      const doc = await new Repo({ storage: adapter }).storageSubsystem!.loadDoc<{ lines: string[] }>(
        documentId,
      );
      expect(lines.length).toBeGreaterThan(1);
      // The save that was cut off may be there or not.
      expect(doc!.lines.slice(0, lines.length)).toEqual(lines);
      expect(doc!.lines.length).toBeLessThanOrEqual(lines.length + 1);
      expect(await problems()).toEqual([]);
      await close();
      await remove();
    }
    expect(kills).toBeGreaterThan(moments.length / 2);
  }, 300_000);
}
