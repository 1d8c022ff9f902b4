/** Storages that are copied from one to the other, and what tests ask of them. */

import { type BackendFactory, DocumentStorage, never } from "coppice";
import { type SimulatedBackend, simulatedBackend, simulatedEnv } from "coppice/testing";
import { expect } from "vitest";
import { type NameSet, nameSet, naming } from "../../../../test/support/oracle-model.js";

const limits = { groupBytesMax: 300, batchBytesMax: 2000 };

export function open(backend: BackendFactory, seed: number, more: { readonly pageBytesMax?: number } = {}) {
  const env = simulatedEnv(seed, { autoAdvance: true });
  const options = { limits: { ...limits, ...more }, snapshotPolicy: never, env };
  return DocumentStorage.open({ backend, models: [nameSet()], ...options });
}

export type Storage = Awaited<ReturnType<typeof open>>;

export async function pair(): Promise<{ from: Storage; to: Storage; target: SimulatedBackend }> {
  const target = simulatedBackend({ seed: 2 });
  return { from: await open(simulatedBackend({ seed: 1 }), 1), to: await open(target, 2), target };
}

export async function write(storage: Storage, id: string, names: string): Promise<void> {
  for (const name of names) await storage.append(id, [naming(name)]);
}

export async function names(storage: Storage, id: string): Promise<string> {
  return [...((await storage.load<NameSet>(id))?.doc.names.keys() ?? [])].sort().join("");
}

export async function clean(...storages: readonly Pick<Storage, "check" | "close">[]): Promise<void> {
  for (const storage of storages) {
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  }
}
