/**
 * Setting bytes aside: what is damaged, or cut off although it may hold commits, is copied into a file of
 * its own before it goes. Nothing here is ever read or removed again by the backend.
 *
 * Invariant: the copy is durable, with its name, when the promise resolves.
 */

import { type StoreFiles, writeFully } from "./files.js";

/** Returns the name of the new file. */
export async function setAside(
  files: StoreFiles,
  segmentNumber: number,
  position: number,
  bytes: Uint8Array,
): Promise<string> {
  const taken = new Set(await files.list());
  const stem = `quarantine-${String(segmentNumber).padStart(8, "0")}-${position}`;
  let name = `${stem}.bin`;
  for (let i = 1; taken.has(name); i++) name = `${stem}-${i}.bin`;
  const file = await files.open(name, "create");
  try {
    await writeFully(file, bytes, bytes.length, 0);
    await file.sync();
  } finally {
    file.close();
  }
  await files.syncNames();
  return name;
}
