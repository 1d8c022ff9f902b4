/** Searching the files of a store, as somebody would who wants to know what is still there. */

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

/** The names of the files below a directory that hold these bytes. */
export async function filesHolding(location: string, bytes: Uint8Array): Promise<string[]> {
  const holding: string[] = [];
  for (const entry of await readdir(location, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    // A file that vanishes meanwhile holds nothing.
    const content = await readFile(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return Buffer.alloc(0);
      throw error;
    });
    if (content.includes(Buffer.from(bytes))) holding.push(entry.name);
  }
  return holding;
}
