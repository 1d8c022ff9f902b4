/**
 * A real run of any backend, recorded by strace: every call that changes files of one directory, and
 * everything that the process said on standard output, in the order in which the calls returned.
 *
 * One line of the trace is one call; halves that another thread interrupted are joined. Calls that failed
 * are left out. Descriptors are followed by number, since they are one table for all threads.
 */

import { execFile, spawnSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

const CALLS =
  "openat,close,write,pwrite64,writev,pwritev,ftruncate,fallocate,fsync,fdatasync," +
  "rename,renameat,renameat2,unlink,unlinkat,link,linkat,lseek";

/** What happened; names are those of files directly in the recorded directory. */
export type Step =
  | { readonly kind: "create"; readonly file: number; readonly name: string }
  | { readonly kind: "write"; readonly file: number; readonly at: number; readonly bytes: Uint8Array }
  | { readonly kind: "truncate"; readonly file: number; readonly length: number }
  | { readonly kind: "sync"; readonly file: number }
  | { readonly kind: "sync-names" }
  | { readonly kind: "rename"; readonly from: string; readonly to: string }
  | { readonly kind: "unlink"; readonly name: string }
  | { readonly kind: "said"; readonly text: string };

/** Why nothing can be recorded here; `undefined` when it can. */
export function recordingMissing(): string | undefined {
  const { error, status } = spawnSync("strace", ["true"]);
  if (error !== undefined) return "strace is not installed";
  return status === 0 ? undefined : "strace may not trace here (ptrace is not permitted)";
}

/** Runs a child to its end under strace. `directory` is where its store is; `record` is written. */
export async function recordSteps(
  script: string,
  args: readonly string[],
  directory: string,
  record: string,
): Promise<Step[]> {
  const tracing = ["-f", "-xx", "-s", "4000000", "-e", `trace=${CALLS}`, "-e", "signal=none", "-o", record];
  await run("strace", [...tracing, process.execPath, script, ...args], { maxBuffer: 64 * 1024 * 1024 });
  return stepsOf(directory, await readFile(record, "latin1"));
}

/** What the trace says of the files of this directory. */
export function stepsOf(directory: string, trace: string): Step[] {
  return new Reader(directory).read(trace);
}

interface Open {
  readonly file: number | "directory" | "other";
  readonly append: boolean;
  readonly synchronous: boolean;
  position: number;
}

class Reader {
  readonly #directory: string;
  readonly #steps: Step[] = [];
  readonly #open = new Map<number, Open>();
  /** Files by their present name, and their present length. */
  readonly #names = new Map<string, number>();
  readonly #lengths: number[] = [];

  constructor(directory: string) {
    this.#directory = directory;
  }

  read(trace: string): Step[] {
    const begun = new Map<string, string>();
    for (const line of trace.split("\n")) {
      const [, thread, rest] = /^(\d+) +(.*)$/s.exec(line) ?? [];
      if (thread === undefined || rest === undefined) continue;
      if (rest.endsWith("<unfinished ...>")) {
        const half = rest.slice(0, -"<unfinished ...>".length).trimEnd();
        // Its number is free at once: another thread may be given it before this call returns.
        if (half.startsWith("close(")) this.#open.delete(Number.parseInt(half.slice("close(".length), 10));
        else begun.set(thread, half);
        continue;
      }
      const call = rest.replace(/^<\.\.\. \w+ resumed>/, () => begun.get(thread) ?? "");
      begun.delete(thread);
      const [, name, args, result] = /^(\w+)\((.*)\)\s+= (-?\d+)/s.exec(call) ?? [];
      if (name !== undefined && Number(result) >= 0) this.#take(name, args ?? "", Number(result));
    }
    return this.#steps;
  }

  #take(call: string, args: string, result: number): void {
    const open = this.#open.get(Number.parseInt(args, 10));
    if (call === "openat") this.#opened(args, result);
    else if (call === "close") this.#open.delete(Number(args));
    else if (call === "write" || call === "pwrite64") this.#written(call, args, result);
    else if (call === "ftruncate") this.#truncated(args);
    else if (call === "writev" || call === "pwritev" || call === "fallocate") this.#refuse(call, args);
    else if (call === "lseek") {
      if (open !== undefined) open.position = result;
    } else if (call === "fsync" || call === "fdatasync") {
      if (open?.file === "directory") this.#steps.push({ kind: "sync-names" });
      else if (typeof open?.file === "number") this.#steps.push({ kind: "sync", file: open.file });
    } else this.#renamed(call, args);
  }

  #opened(args: string, descriptor: number): void {
    const path = strings(args)[0]!;
    const flags = args.slice(args.lastIndexOf('"'));
    const state = {
      append: flags.includes("O_APPEND"),
      synchronous: /O_D?SYNC/.test(flags),
      position: 0,
    };
    const name = this.#nameOf(path);
    if (path === this.#directory) {
      this.#open.set(descriptor, { ...state, file: "directory" });
      return;
    }
    if (name === undefined) {
      this.#open.set(descriptor, { ...state, file: "other" });
      return;
    }
    let file = this.#names.get(name);
    if (file === undefined && flags.includes("O_CREAT")) {
      file = this.#lengths.push(0) - 1;
      this.#names.set(name, file);
      this.#steps.push({ kind: "create", file, name });
    }
    if (file === undefined) return;
    if (flags.includes("O_TRUNC") && this.#lengths[file]! > 0) {
      this.#lengths[file] = 0;
      this.#steps.push({ kind: "truncate", file, length: 0 });
    }
    this.#open.set(descriptor, { ...state, file });
  }

  #written(call: string, args: string, count: number): void {
    const descriptor = Number.parseInt(args, 10);
    const open = this.#open.get(descriptor);
    if (open === undefined && descriptor === 1) {
      this.#steps.push({ kind: "said", text: strings(args)[0]! });
      return;
    }
    if (typeof open?.file !== "number") return;
    const length = this.#lengths[open.file]!;
    const given = Number(/(\d+)$/.exec(args)?.[1]);
    const at = open.append ? length : call === "pwrite64" ? given : open.position;
    if (call === "write") open.position = at + count;
    this.#lengths[open.file] = Math.max(length, at + count);
    const bytes = Buffer.from(strings(args)[0]!, "latin1").subarray(0, count);
    this.#steps.push({ kind: "write", file: open.file, at, bytes });
    if (open.synchronous) this.#steps.push({ kind: "sync", file: open.file });
  }

  #truncated(args: string): void {
    const [descriptor, length] = args.split(",").map(Number) as [number, number];
    const open = this.#open.get(descriptor);
    if (typeof open?.file !== "number") return;
    this.#lengths[open.file] = length;
    this.#steps.push({ kind: "truncate", file: open.file, length });
  }

  #renamed(call: string, args: string): void {
    const [from, to] = strings(args).map((path) => this.#nameOf(path));
    if (from === undefined) return;
    if (call.startsWith("unlink")) {
      this.#names.delete(from);
      this.#steps.push({ kind: "unlink", name: from });
      return;
    }
    const file = this.#names.get(from);
    if (to === undefined || file === undefined) throw new Error(`${call} of ${from} leads out of the store`);
    this.#names.set(to, file);
    if (call.startsWith("link")) {
      this.#steps.push({ kind: "create", file, name: to });
      return;
    }
    this.#names.delete(from);
    this.#steps.push({ kind: "rename", from, to });
  }

  /** A call on the store that this reader does not follow would make every state wrong. */
  #refuse(call: string, args: string): void {
    const open = this.#open.get(Number.parseInt(args, 10));
    if (typeof open?.file === "number") throw new Error(`${call} on a file of the store is not followed`);
  }

  #nameOf(path: string): string | undefined {
    return dirname(path) === this.#directory ? basename(path) : undefined;
  }
}

/** The string arguments, each byte of which the trace has as `\xNN`. */
function strings(args: string): string[] {
  return [...args.matchAll(/"((?:\\x[0-9a-f]{2})*)"/g)].map(([, hex = ""]) =>
    Buffer.from(hex.replaceAll("\\x", ""), "hex").toString("latin1"),
  );
}
