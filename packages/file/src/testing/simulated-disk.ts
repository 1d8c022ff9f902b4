/**
 * A disk that keeps apart what is durable and what a crash may take: bytes that were written and not
 * synced, names that were made, changed or removed in a directory that was not synced. From it any number
 * of images can be taken of what a crash at this moment may leave.
 *
 * Not simulated: permissions, symbolic links, more than one directory, two processes at once (but the lock).
 * Opening lets the event loop turn, as on a real disk: else nothing that a loop of openings refers to weakly
 * could be collected, and no time limit would end it. All the rest takes microtasks alone.
 *
 * Invariants: the same calls and the same chance give the same images; an image is a disk whose whole
 * content is durable; a failed sync drops what it should have made durable from later syncs, as Linux does,
 * while reads go on showing it.
 */

import { setImmediate } from "node:timers/promises";
import type { OpenFile, OpenFiles, OpenMode, StoreFiles } from "../files.js";

interface Write {
  readonly position: number;
  readonly bytes: Uint8Array;
}

interface Node {
  /** What reads see; copied before the first change when `shared` with an image or with what is durable. */
  content: Uint8Array;
  shared: boolean;
  size: number;
  durable: Uint8Array;
  pending: Write[];
  /** Reads show what a failed sync dropped. */
  dropped: boolean;
}

type NameChange = { readonly name: string; readonly node: Node | undefined }[];

/** What a crash leaves: the bytes of each file by name. */
export type DiskImage = ReadonlyMap<string, Uint8Array>;

export interface DiskOperation {
  /** From 0 on. */
  readonly index: number;
  readonly kind: "create" | "write" | "sync" | "rename" | "remove" | "sync-names";
  readonly name: string;
}

export interface CrashModel {
  readonly title: string;
  /**
   * `true`: a sync of any file makes all names durable, as ext4 does; `false`: only `syncNames`, as POSIX
   * says.
   */
  readonly namesWithFiles: boolean;
  /** What survives of the unsynced writes of a file. */
  readonly keep: "nothing" | "everything" | "prefix" | "subset" | "sectors";
  /** The last unsynced write of each file survives in part only. */
  readonly tearsLast: boolean;
}

/** Every combination that says something of its own. */
export const crashModels: readonly CrashModel[] = [false, true].flatMap((namesWithFiles) =>
  (["nothing", "everything", "prefix", "subset", "sectors"] as const).flatMap((keep) =>
    (keep === "nothing" ? [false] : [false, true]).map((tearsLast) => ({
      title: `${namesWithFiles ? "ext4-like" : "strict"}, ${keep}${tearsLast ? ", torn" : ""}`,
      namesWithFiles,
      keep,
      tearsLast,
    })),
  ),
);

interface Chance {
  int(end: number): number;
}

type Fault = (operation: DiskOperation) => Error | undefined;

export class SimulatedDisk {
  #names = new Map<string, Node>();
  #durableNames = new Map<string, Node>();
  /** Name changes that a crash may take, by model: ext4-like ones are forgotten at each sync. */
  #pendingNames: NameChange[] = [];
  #journaledNames = new Map<string, Node>();
  #pendingSinceJournal: NameChange[] = [];
  #locked = false;
  /** Who read, and have said so. */
  #sharing = 0;
  #operations = 0;
  /**
   * Called before each operation that changes the disk. Returns the error that the operation fails with.
   */
  fault: Fault | undefined;
  /** Called after each operation that changed the disk. */
  onOperation: ((operation: DiskOperation) => void) | undefined;
  /** Bytes that all files may have; a write that reaches it is short. */
  capacityBytes: number = Number.POSITIVE_INFINITY;
  /** The most that one write takes, to see that short writes are followed up. */
  writeBytesMax: number = Number.POSITIVE_INFINITY;
  /** Changes what a read returns: a disk that returns another block. */
  onRead: ((name: string, position: number, bytes: Uint8Array) => void) | undefined;

  constructor(image: DiskImage = new Map()) {
    for (const [name, bytes] of image) {
      const node: Node = {
        content: bytes,
        shared: true,
        size: bytes.length,
        durable: bytes,
        pending: [],
        dropped: false,
      };
      for (const names of [this.#names, this.#durableNames, this.#journaledNames]) names.set(name, node);
    }
  }

  get operationCount(): number {
    return this.#operations;
  }

  /** For `fileLogBackend(…, { files })`. */
  readonly files: OpenFiles = async () => {
    await setImmediate();
    return new SimulatedFiles(this);
  };

  /** What reads see now: the death of the process alone leaves this. */
  image(): DiskImage {
    return new Map([...this.#names].map(([name, { content, size }]) => [name, content.slice(0, size)]));
  }

  /** What a loss of power at this moment may leave, by the model and by chance. */
  crash(model: CrashModel, chance: Chance): DiskImage {
    const names = new Map(model.namesWithFiles ? this.#journaledNames : this.#durableNames);
    const changes = model.namesWithFiles ? this.#pendingSinceJournal : this.#pendingNames;
    for (const change of keptChanges(changes, model, chance)) applyChange(names, change);
    return new Map([...names].map(([name, node]) => [name, keptBytes(node, model, chance)]));
  }

  /** Whether a crash now could leave anything else than `image()`. */
  get hasPending(): boolean {
    return (
      this.#pendingNames.length > 0 || [...this.#names.values()].some(({ pending }) => pending.length > 0)
    );
  }

  lock(): boolean {
    if (this.#locked) return false;
    this.#locked = true;
    return true;
  }

  unlock(): void {
    this.#locked = false;
  }

  share(): void {
    this.#sharing++;
  }

  unshare(): void {
    this.#sharing--;
  }

  get isShared(): boolean {
    return this.#sharing > 0;
  }

  names(): string[] {
    return [...this.#names.keys()];
  }

  node(name: string): Node | undefined {
    return this.#names.get(name);
  }

  create(name: string): Node {
    const empty = new Uint8Array(0);
    const node: Node = { content: empty, shared: true, size: 0, durable: empty, pending: [], dropped: false };
    this.#operate("create", name, () => this.#change([{ name, node }]));
    return node;
  }

  rename(from: string, to: string): void {
    const node = this.#found(from);
    this.#operate("rename", `${from} ${to}`, () =>
      this.#change([
        { name: from, node: undefined },
        { name: to, node },
      ]),
    );
  }

  remove(name: string): void {
    this.#found(name);
    this.#operate("remove", name, () => this.#change([{ name, node: undefined }]));
  }

  syncNames(): void {
    this.#operate("sync-names", ".", () => {
      this.#durableNames = new Map(this.#names);
      this.#pendingNames = [];
      this.#journal();
    });
  }

  write(name: string, node: Node, bytes: Uint8Array, position: number): number {
    const used = [...this.#names.values()].reduce((sum, { size }) => sum + size, 0);
    const room = Math.max(0, this.capacityBytes - used) + Math.max(0, node.size - position);
    const count = Math.min(bytes.length, this.writeBytesMax, room);
    if (count === 0) throw failure("ENOSPC");
    this.#operate("write", name, () => {
      // Not `slice`: of a Buffer that would be a view, and the caller writes there again.
      const written = new Uint8Array(bytes.subarray(0, count));
      patch(node, written, position);
      node.pending.push({ position, bytes: written });
    });
    return count;
  }

  sync(name: string, node: Node): void {
    try {
      this.#operate("sync", name, () => {
        makeDurable(node);
        this.#journal();
      });
    } catch (error) {
      // The kernel marks the pages clean: no later sync writes them.
      if (node.pending.length > 0) node.dropped = true;
      node.pending = [];
      throw error;
    }
  }

  #found(name: string): Node {
    const node = this.#names.get(name);
    if (node === undefined) throw failure("ENOENT");
    return node;
  }

  #change(change: NameChange): void {
    applyChange(this.#names, change);
    this.#pendingNames.push(change);
    this.#pendingSinceJournal.push(change);
  }

  #journal(): void {
    this.#journaledNames = new Map(this.#names);
    this.#pendingSinceJournal = [];
  }

  #operate(kind: DiskOperation["kind"], name: string, effect: () => void): void {
    const operation = { index: this.#operations++, kind, name };
    const error = this.fault?.(operation);
    if (error !== undefined) throw error;
    effect();
    this.onOperation?.(operation);
  }
}

/** An error of the file system, for `fault`. */
export function failure(code: string): Error {
  return Object.assign(new Error(`simulated ${code}`), { code });
}

class SimulatedFiles implements StoreFiles {
  readonly #disk: SimulatedDisk;
  #holdsLock = false;
  #shares = false;

  constructor(disk: SimulatedDisk) {
    this.#disk = disk;
  }

  async list(): Promise<string[]> {
    return this.#disk.names();
  }

  async open(name: string, mode: OpenMode): Promise<OpenFile> {
    const found = this.#disk.node(name);
    if (mode === "create" && found !== undefined) throw failure("EEXIST");
    if (mode !== "create" && found === undefined) throw failure("ENOENT");
    return new SimulatedFile(this.#disk, name, found ?? this.#disk.create(name));
  }

  async rename(from: string, to: string): Promise<void> {
    this.#disk.rename(from, to);
  }

  async remove(name: string): Promise<void> {
    this.#disk.remove(name);
  }

  async syncNames(): Promise<void> {
    this.#disk.syncNames();
  }

  identityOf(name: string): string | undefined {
    const node = this.#disk.node(name);
    return node === undefined ? undefined : `${identity(node)}`;
  }

  async lock(): Promise<boolean> {
    this.#holdsLock = this.#disk.lock();
    return this.#holdsLock;
  }

  async share(): Promise<boolean> {
    if (!this.#shares) this.#disk.share();
    this.#shares = true;
    return true;
  }

  async isOwn(): Promise<boolean> {
    return this.#holdsLock && !this.#disk.isShared;
  }

  close(): void {
    if (this.#holdsLock) this.#disk.unlock();
    if (this.#shares) this.#disk.unshare();
    this.#holdsLock = false;
    this.#shares = false;
  }
}

class SimulatedFile implements OpenFile {
  readonly #disk: SimulatedDisk;
  readonly #name: string;
  readonly #node: Node;

  constructor(disk: SimulatedDisk, name: string, node: Node) {
    this.#disk = disk;
    this.#name = name;
    this.#node = node;
  }

  async read(into: Uint8Array, at: number, length: number, position: number): Promise<number> {
    return this.readNow(into, at, length, position);
  }

  async readEach(into: readonly Uint8Array[], position: number): Promise<number> {
    let count = 0;
    for (const piece of into) {
      const read = this.readNow(piece, 0, piece.length, position + count);
      count += read;
      if (read < piece.length) break;
    }
    return count;
  }

  readNow(into: Uint8Array, at: number, length: number, position: number): number {
    const { content, size } = this.#node;
    const count = Math.max(0, Math.min(length, size - position));
    const { onRead } = this.#disk;
    const bytes =
      onRead === undefined
        ? content.subarray(position, position + count)
        : content.slice(position, position + count);
    onRead?.(this.#name, position, bytes);
    into.set(bytes, at);
    return count;
  }

  write(from: Uint8Array, at: number, length: number, position: number): number {
    return this.#disk.write(this.#name, this.#node, from.subarray(at, at + length), position);
  }

  async sync(): Promise<void> {
    this.#disk.sync(this.#name, this.#node);
  }

  async size(): Promise<number> {
    return this.#node.size;
  }

  close(): void {}
}

const SECTOR_BYTES = 512;

function keptChanges(changes: readonly NameChange[], { keep }: CrashModel, chance: Chance): NameChange[] {
  if (keep === "nothing") return [];
  if (keep === "everything") return [...changes];
  if (keep === "prefix") return changes.slice(0, chance.int(changes.length + 1));
  return changes.filter(() => chance.int(2) === 0);
}

function keptBytes(node: Node, { keep, tearsLast }: CrashModel, chance: Chance): Uint8Array {
  const { pending } = node;
  const kept = keep === "prefix" ? chance.int(pending.length + 1) : keep === "nothing" ? 0 : pending.length;
  const writes: Write[] = [];
  for (let i = 0; i < kept; i++) {
    const { bytes, position } = pending[i]!;
    if (keep === "subset" && chance.int(2) === 0) continue;
    const torn = tearsLast && i === kept - 1 ? bytes.subarray(0, chance.int(bytes.length + 1)) : bytes;
    if (keep === "sectors") writes.push(...keptSectors({ bytes: torn, position }, chance));
    else writes.push({ bytes: torn, position });
  }
  return patched(node.durable, writes);
}

function keptSectors({ bytes, position }: Write, chance: Chance): Write[] {
  const kept: Write[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = Math.min(bytes.length, SECTOR_BYTES - ((position + at) % SECTOR_BYTES) + at);
    if (chance.int(2) === 0) kept.push({ bytes: bytes.subarray(at, end), position: position + at });
    at = end;
  }
  return kept;
}

function applyChange(names: Map<string, Node>, change: NameChange): void {
  for (const { name, node } of change) {
    if (node === undefined) names.delete(name);
    else names.set(name, node);
  }
}

function patch(node: Node, bytes: Uint8Array, position: number): void {
  const end = position + bytes.length;
  if (node.shared || end > node.content.length) {
    const length = node.content.length;
    const own = new Uint8Array(end > length ? Math.max(end, 2 * length) : length);
    own.set(node.content);
    node.content = own;
    node.shared = false;
  }
  node.content.set(bytes, position);
  node.size = Math.max(node.size, end);
}

function makeDurable(node: Node): void {
  if (node.pending.length === 0) return;
  if (node.dropped) node.durable = patched(node.durable, node.pending);
  else {
    node.durable = node.content.subarray(0, node.size);
    node.shared = true;
  }
  node.pending = [];
}

/** Copies once, however many writes there are, and not for none: a segment is large beside a commit. */
function patched(content: Uint8Array, writes: readonly Write[]): Uint8Array {
  if (writes.length === 0) return content;
  const end = writes.reduce((most, { bytes, position }) => Math.max(most, position + bytes.length), 0);
  const result = new Uint8Array(Math.max(content.length, end));
  result.set(content);
  for (const { bytes, position } of writes) result.set(bytes, position);
  return result;
}

const identities = new WeakMap<Node, number>();
let identityCount = 0;

function identity(node: Node): number {
  const known = identities.get(node) ?? ++identityCount;
  identities.set(node, known);
  return known;
}
