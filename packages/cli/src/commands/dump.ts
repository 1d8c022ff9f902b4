/**
 * `coppice dump`: the keys of a document as they are stored, with what the envelope of each value says and
 * whether its checksum holds. For people who want to see what is there, and for reports of damage.
 *
 * It reads around storage, so it shows what no model can load; it changes nothing.
 */

import type { Command } from "commander";
import { type Backend, crc32, encodeKey, Guard, type Key, LIMITS, Reader, systemEnv, toHex } from "coppice";
import { EXIT, type ExitCode } from "../errors.js";
import { examples, type StoreOptions, storeCommand } from "../options.js";
import { byteSize, count, printable, Table, timestamp } from "../output.js";
import type { Runtime } from "../runtime.js";
import { assertStore, besideOwner, parseStore, waiting } from "../store.js";
import { noDocument } from "./document.js";

/** What a stored value says of itself: see docs/format.md. */
interface Value {
  readonly space: string;
  readonly id: string;
  readonly seq: number | undefined;
  readonly part: number | undefined;
  readonly bytes: number;
  /** `intact`, `damaged`, or `newer`: of a format that this version does not know. */
  readonly state: "intact" | "damaged" | "newer";
  readonly kind?: string;
  readonly events?: number;
  readonly logBytes?: number;
  readonly time?: number;
  readonly commitId?: string;
}

/** Of AutomergeRepoStorage, with a layout of their own under a checksum of the same kind. */
const CHUNKS = "chunks";
const SPACES = [
  "meta",
  "tags",
  "events",
  "snapshot",
  "tagged",
  "archive",
  "held",
  "quarantine",
  "erased",
  "copied",
  "reclaim",
  CHUNKS,
] as const;
/** See `meta.ts` of core: `stage · 2¹⁶ + part`. */
const STAGE_PARTS = 2 ** 16;
const COMPRESSED = 1;
const BATCH = 2;
const LOST = 32;

export function dumpCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return storeCommand("dump", "print every stored key, with sizes and checksums")
    .argument("[id]", "only of this document")
    .addHelpText(
      "after",
      examples(["coppice dump notes", "as a table"], ["coppice dump --json | grep damaged", "as JSON lines"]),
    )
    .action(async (id: string | undefined, options: StoreOptions) => done(await dump(runtime, id, options)));
}

async function dump(runtime: Runtime, id: string | undefined, options: StoreOptions): Promise<ExitCode> {
  const { out, signal } = runtime;
  const address = parseStore(options.store);
  if (address.scheme !== "memory") await assertStore(address, options.store);
  const env = systemEnv();
  const backend: Backend = await waiting(runtime, address, options, () =>
    besideOwner(runtime, address, options, {}, (factory) => factory.open(env)),
  );
  const guard = new Guard(backend, env, LIMITS);
  const table = new Table(COLUMNS);
  let shown = 0;
  let damaged = 0;
  try {
    for (const space of SPACES) {
      for await (const page of guard.scan(id === undefined ? { space } : { space, id }, { signal })) {
        const values = page.map(({ key, value }) => describe(key, value));
        damaged += values.filter(({ state }) => state === "damaged").length;
        if (options.json) for (const value of values) await out.json(value);
        else {
          const rows = values.map(rowOf);
          if (shown === 0) await out.write(table.header((text) => out.style("dim", text), rows));
          await out.write(table.rows(rows));
        }
        shown += values.length;
      }
    }
  } finally {
    await guard.close();
  }
  if (shown === 0 && id !== undefined) throw noDocument(id);
  return damaged > 0 ? EXIT.corrupt : EXIT.ok;
}

function describe(key: Key, value: Uint8Array): Value {
  const [space, id, ...numbers] = key;
  const isChunk = space === CHUNKS;
  const [seq, part] = isChunk ? [undefined, numbers[0]] : numbers;
  const about = { space, id, seq, part, bytes: value.length };
  const end = value.length - 4;
  const intact =
    end >= (isChunk ? 4 : 5) &&
    crc32(value.subarray(0, end), crc32(encodeKey(key))) === new Reader(value, end).uint32();
  if (!intact) return { ...about, state: "damaged" };
  if (value[0] !== 1) return { ...about, state: "newer" };
  if (isChunk) return { ...about, state: "intact", kind: "chunk" };
  const reader = new Reader(value, 1);
  const flags = reader.byte();
  const [events, logBytes, time] = [reader.varint(), reader.varint(), reader.varint()];
  const kind =
    flags & LOST ? "lost batch" : flags & BATCH ? "batch" : flags & COMPRESSED ? "deflated" : "record";
  if ((flags & BATCH) === 0) return { ...about, state: "intact", kind, time };
  return { ...about, state: "intact", kind, events, logBytes, time, commitId: toHex(reader.raw(16)) };
}

const COLUMNS = [
  { name: "space", widthMin: 8 },
  { name: "id" },
  { name: "seq", align: "right", widthMin: 7 },
  { name: "part", align: "right", widthMin: 10 },
  { name: "bytes", align: "right", widthMin: 8 },
  { name: "state" },
  { name: "kind", widthMin: 8 },
  { name: "events", align: "right" },
  { name: "time" },
] as const;

function rowOf(value: Value): string[] {
  const number = (given: number | undefined) => (given === undefined ? "" : count(given));
  const time = value.time === undefined ? "" : timestamp(value.time);
  const { space, id, seq, part, bytes, state, kind = "", events } = value;
  return [
    space,
    printable(id),
    number(seq),
    partOf(part),
    byteSize(bytes),
    state,
    kind,
    number(events),
    time,
  ];
}

/** Of a snapshot or an archive the stage, which is chosen at random, and then which of its parts it is. */
function partOf(part: number | undefined): string {
  if (part === undefined) return "";
  const stage = Math.floor(part / STAGE_PARTS);
  return stage === 0 ? count(part) : `${stage.toString(16)}/${part % STAGE_PARTS}`;
}
