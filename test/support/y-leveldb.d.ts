/** What tests use of y-leveldb, whose package does not export its own types. */
declare module "y-leveldb" {
  import type { Doc } from "yjs";

  export class LeveldbPersistence {
    constructor(location: string);
    /** `null`: it failed. */
    storeUpdate(name: string, update: Uint8Array): Promise<number | null>;
    getYDoc(name: string): Promise<Doc>;
    flushDocument(name: string): Promise<void>;
    setMeta(name: string, key: string, value: unknown): Promise<void>;
    getAllDocNames(): Promise<string[]>;
    destroy(): Promise<void>;
  }
}
