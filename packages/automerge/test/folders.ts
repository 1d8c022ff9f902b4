/** A temporary folder and how to remove it. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

export async function withFolder(): Promise<{ folder: string; remove: () => Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), "coppice-automerge-"));
  return { folder, remove: () => rm(folder, { recursive: true, force: true }) };
}
