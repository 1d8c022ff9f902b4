/**
 * `coppice ls`: the documents of a store, in the order of their ids. It looks into no document without
 * `--long` or `--largest`.
 */

import type { Command } from "commander";
import { type DocumentInfo, isCoppiceError } from "coppice";
import { EXIT, type ExitCode } from "../errors.js";
import { examples, parseCount, parsePositive, type StoreOptions, storeCommand } from "../options.js";
import { byteSize, count, type Output, printable, Table, timestamp } from "../output.js";
import type { Runtime } from "../runtime.js";
import { type Store, withStore } from "../store.js";
import { factsOf } from "./document.js";

interface Options extends StoreOptions {
  readonly prefix?: string;
  readonly after?: string;
  readonly limit?: number;
  readonly long?: true;
  readonly largest?: number;
}

/** What `--long` shows of one document; a damaged one has an error instead of facts. */
type Row =
  | { readonly id: string; readonly info: DocumentInfo }
  | { readonly id: string; readonly error: Error };

/** Rows that are aligned with each other, and held in memory. */
const PORTION = 500;
/** Documents that are looked at together. */
const AHEAD = 8;

const CHUNKS =
  "holds chunks of AutomergeRepoStorage, which are no documents of Coppice; `coppice dump` shows them";

export function lsCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return storeCommand("ls", "list documents")
    .option("--prefix <text>", "only ids that begin with it")
    .option("--after <id>", "only ids after this one")
    .option("--limit <count>", "at most so many", parseCount)
    .option("-l, --long", "with model, clocks, sizes and times")
    .option("--largest <count>", "as --long, of so many that take most in the store", parsePositive)
    .addHelpText(
      "after",
      examples(
        ["coppice ls -s level:./data", "all ids, one on each line"],
        ["coppice ls --prefix notes/ --long", "a table of some of them"],
        ["coppice ls --largest 20", "which ones are large"],
        ["coppice ls --json | jq -r .id", "ids exactly as they are, whatever is in them"],
      ),
    )
    .action(async (options: Options) => done(await list(runtime, options)));
}

function list(runtime: Runtime, options: Options): Promise<ExitCode> {
  const { out, err, signal } = runtime;
  return withStore(runtime, { ...options, onlyReads: true, restores: false }, async (storage, facts) => {
    const told = async (shown: number) => {
      if (shown > 0 || options.json) return;
      const narrowed = options.prefix !== undefined || options.after !== undefined || options.limit === 0;
      await err.line(narrowed ? "no such documents" : "no documents");
      // Nobody is to take it for an empty store.
      if (!narrowed && (await facts?.holdsChunks()))
        await err.line(`note: ${printable(options.store)} ${CHUNKS}`);
    };
    const { prefix, after, limit } = options;
    const ids = storage.list({
      ...(prefix === undefined ? {} : { prefix }),
      ...(after === undefined ? {} : { after }),
      ...(limit === undefined ? {} : { limit }),
    });
    if (options.long || options.largest !== undefined)
      return listLong(storage, ids, out, options, signal, told);
    let shown = 0;
    for await (const id of ids) {
      signal.throwIfAborted();
      shown++;
      await (options.json ? out.json({ id }) : out.line(printable(id)));
    }
    await told(shown);
    return EXIT.ok;
  });
}

async function listLong(
  storage: Store,
  ids: AsyncIterable<string>,
  out: Output,
  options: Options,
  signal: AbortSignal,
  told: (shown: number) => Promise<void>,
): Promise<ExitCode> {
  const table = new Table([
    { name: "id" },
    { name: "model" },
    { name: "clock", align: "right" },
    { name: "to replay", align: "right" },
    { name: "log", align: "right" },
    { name: "snapshots", align: "right" },
    { name: "stored", align: "right" },
    { name: "changed" },
  ]);
  let portion: string[][] = [];
  let code: ExitCode = EXIT.ok;
  let headed = false;
  const flush = async () => {
    const header = headed ? "" : table.header((text) => out.style("dim", text), portion);
    if (portion.length > 0) await out.write(header + table.rows(portion));
    headed ||= portion.length > 0;
    portion = [];
  };
  const rows = rowsOf(storage, ids, signal);
  for await (const row of options.largest === undefined ? rows : await largest(rows, options.largest)) {
    const { id } = row;
    if ("error" in row || row.info.usage === undefined) code = EXIT.corrupt;
    if (options.json) {
      await out.json("info" in row ? row.info : { id, error: row.error.message });
      continue;
    }
    portion.push(cells(row));
    if (portion.length === PORTION) await flush();
  }
  await flush();
  await told(headed ? 1 : 0);
  return code;
}

/** In the order of ids; some are looked at ahead, since each waits for several reads. */
async function* rowsOf(storage: Store, ids: AsyncIterable<string>, signal: AbortSignal): AsyncGenerator<Row> {
  const ahead: Promise<Row | undefined>[] = [];
  for await (const id of ids) {
    signal.throwIfAborted();
    const looking = look(storage, id);
    // It is told when its turn comes, if it does.
    looking.catch(() => undefined);
    ahead.push(looking);
    if (ahead.length < AHEAD) continue;
    const row = await ahead.shift();
    if (row !== undefined) yield row;
  }
  for (const looking of ahead) {
    signal.throwIfAborted();
    const row = await looking;
    if (row !== undefined) yield row;
  }
}

/** So many, the largest first; what is damaged before all. It holds a few more than twice as many. */
async function largest(rows: AsyncIterable<Row>, countMax: number): Promise<readonly Row[]> {
  let kept: Row[] = [];
  const cut = () => {
    kept = kept.sort((left, right) => sizeOf(right) - sizeOf(left)).slice(0, countMax);
  };
  for await (const row of rows) {
    kept.push(row);
    if (kept.length >= 2 * countMax + PORTION) cut();
  }
  cut();
  return kept;
}

function sizeOf(row: Row): number {
  return ("info" in row ? row.info.usage?.storedBytes : undefined) ?? Number.POSITIVE_INFINITY;
}

/** `undefined` when it was deleted meanwhile. */
async function look(storage: Store, id: string): Promise<Row | undefined> {
  try {
    const info = await factsOf(storage, id);
    return info && { id, info };
  } catch (error) {
    if (!isCoppiceError(error) || error.kind === "closed") throw error;
    return { id, error };
  }
}

function cells(row: Row): string[] {
  if ("error" in row) return [printable(row.id), "damaged", "", "", "", "", "", "run coppice check"];
  const { info } = row;
  const { usage } = info;
  return [
    printable(info.id),
    info.model,
    count(info.clock),
    count(info.eventsSinceSnapshot),
    usage === undefined ? "damaged" : byteSize(usage.retainedBytes),
    info.snapshotClock === undefined ? "-" : byteSize(usage?.snapshotBytes ?? info.snapshotBytes),
    usage === undefined ? "damaged" : byteSize(usage.storedBytes),
    timestamp(info.changed),
  ];
}
