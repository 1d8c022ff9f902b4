/**
 * The backends that the laboratory takes apart, by name, and the storage that it opens on them: a model
 * whose state a test knows by itself. Runs in children too.
 */

import { fileLogBackend } from "@coppice/file";
import { levelBackend } from "@coppice/level";
import { type BackendFactory, DocumentStorage, everyEvents } from "coppice";
import { nameSet } from "../../support/oracle-model.js";

export type BackendName = "file" | "level" | "level-anchored";
export const BACKENDS: readonly BackendName[] = ["level", "file"];
/** With all that finds damage. */
export const EXAMINED: readonly BackendName[] = ["level", "level-anchored", "file"];

/** With small buffers, so that files are switched and merged often. An anchor lies beside the directory. */
export function backendAt(name: BackendName, location: string): BackendFactory {
  if (name === "file") return killedBackend(name, location, "power");
  const anchor = name === "level-anchored" ? { anchor: `${location}.anchor` } : {};
  return levelBackend(location, { writeBufferBytes: 64 * 1024, ...anchor });
}

export function openStore(name: BackendName, location: string): Promise<DocumentStorage> {
  return DocumentStorage.open({
    backend: backendAt(name, location),
    models: [nameSet()],
    snapshotPolicy: everyEvents(60),
  });
}

export type KilledBackend = "file" | "level";

/** The same without an anchor, at a durability. */
export function killedBackend(
  name: KilledBackend,
  location: string,
  durability: "power" | "process",
): BackendFactory {
  if (name === "level") return levelBackend(location, { durability, writeBufferBytes: 64 * 1024 });
  return fileLogBackend(location, { durability, segmentBytesMax: 64 * 1024, mergeDeadRatioMin: 0.1 });
}

/** Whether a merged segment is in use: then whoever wrote this manifest of a file log has merged now and then. */
export function saysMerged(manifest: Uint8Array | undefined): boolean {
  return Buffer.from(manifest ?? []).includes('"kind":"merged"');
}
