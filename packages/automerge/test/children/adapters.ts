/** Both adapters on LevelDB in a folder, for processes that are killed and for those that look at what is left. */

import { join } from "node:path";
import { levelBackend } from "@coppice/level";
import { DocumentStorage } from "coppice";
import {
  AutomergeRepoDocuments,
  AutomergeRepoStorage,
  automerge,
  type RepoStorage,
} from "../../src/index.js";

export interface OpenAdapter {
  readonly adapter: RepoStorage;
  /** What is wrong with the store. */
  problems(): Promise<readonly unknown[]>;
  close(): Promise<void>;
}

export async function openAdapter(name: string, folder: string): Promise<OpenAdapter> {
  if (name === "AutomergeRepoStorage") {
    const adapter = await AutomergeRepoStorage.open(levelBackend(join(folder, "chunks")));
    return { adapter, problems: async () => [], close: () => adapter.close() };
  }
  const backend = levelBackend(join(folder, "documents"));
  const storage = await DocumentStorage.open({ backend, models: [automerge()] });
  const others = await AutomergeRepoStorage.open(levelBackend(join(folder, "others")));
  const adapter = new AutomergeRepoDocuments(storage, others);
  return {
    adapter,
    problems: async () => (await storage.check()).problems,
    close: () => adapter.close(),
  };
}
