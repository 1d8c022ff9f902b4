/**
 * The benchmark: what Coppice costs beside its peer and beside what lies below it, on real editing histories.
 *
 * usage: npm run bench -- [options]; see `--help`
 *
 * What is measured: the built packages (`dist`), on LevelDB, in one process, on the machine at hand. All sides of a
 * table run in turn, round by round (A B C A B C …), after one round that does not count; a ratio is taken within
 * each round, and its median is what counts. Each table says which side syncs: ours always does (durability "power"),
 * the peers as they are made. Peers: y-leveldb, classic-level without any document above it, and the file adapter of automerge-repo.
 *
 * What is not: the time to open a store, a disk that is really cold (the page cache is warm), networks, many
 * processes, and memory outside of the one table that says so. The figures of different machines, or of different
 * hours of a shared one, are not comparable; ratios within one run are. Nothing that depends on time is asserted:
 * a missed target is reported, and the exit code stays 0. What was loaded is compared with what was written.
 *
 * Invariant: everything is written below one temporary folder, each round of writing in a fresh one, and the
 * folder is removed at the end, at an error, and at Ctrl-C.
 */
import { writeFile } from "node:fs/promises";
import { amplification } from "./amplification.mjs";
import { append, appendMany } from "./append.mjs";
import { archive } from "./archive.mjs";
import { diff } from "./diff.mjs";
import { documents } from "./documents.mjs";
import { dropins } from "./dropins.mjs";
import { file } from "./file.mjs";
import { graph } from "./graph.mjs";
import { load, tail } from "./load.mjs";
import { models } from "./models.mjs";
import { reclaim } from "./reclaim.mjs";
import { describeMachine, toJson, toMarkdown, toText } from "./report.mjs";
import { server } from "./server.mjs";
import { Scratch } from "./stores.mjs";
import { openTrace } from "./trace.mjs";

const WORKLOADS = [
  append,
  appendMany,
  load,
  tail,
  documents,
  diff,
  amplification,
  archive,
  reclaim,
  graph,
  dropins,
  file,
  models,
  server,
];

const HELP = `usage: npm run bench -- [options]

  --only <name>      one workload; may be repeated, or names joined by commas:
${WORKLOADS.map(({ name, about }) => `                       ${name.padEnd(14)} ${about}`).join("\n")}
  --rounds <count>   rounds that count (default 5)
  --quick            small inputs and 3 rounds: does it run at all?
  --dir <folder>     where the temporary folder is made (default: the system's); its disk is what is measured
  --json             print one JSON value instead of tables
  --markdown <file>  also write the tables as a page
  --help             this

Recordings are looked for in COPPICE_TRACES, else in ../shared/traces beside the repository; without them
a seeded typist of our own is measured.`;

const options = parse(process.argv.slice(2));
if (options.help) console.log(HELP);
else await main();

async function main() {
  const scratch = await Scratch.create(options.dir);
  const interrupted = () => {
    scratch.removeNow();
    process.exit(130);
  };
  process.once("SIGINT", interrupted);
  process.once("SIGTERM", interrupted);
  try {
    const trace = await openTrace(options.quick ? 30_000 : undefined);
    const { rounds, quick } = options;
    const report = {
      machine: await describeMachine(scratch.path),
      trace: trace.source,
      rounds,
      quick,
      results: [],
    };
    for (const workload of chosen()) {
      note(`${workload.name}: ${workload.about}`);
      report.results.push({
        name: workload.name,
        ...(await workload.run({ rounds, quick, scratch, trace, note })),
      });
    }
    console.log(options.json ? toJson(report) : toText(report));
    if (options.markdown !== undefined) await writeFile(options.markdown, toMarkdown(report));
  } finally {
    await scratch.remove();
  }
}

function chosen() {
  return options.only.length === 0 ? WORKLOADS : WORKLOADS.filter(({ name }) => options.only.includes(name));
}

function note(text) {
  process.stderr.write(`${text}\n`);
}

function parse(words) {
  const parsed = { only: [], rounds: undefined, quick: false, json: false, help: false };
  for (let word = words.shift(); word !== undefined; word = words.shift()) {
    if (["--quick", "--json", "--help"].includes(word)) parsed[word.slice(2)] = true;
    else if (["--only", "--rounds", "--dir", "--markdown"].includes(word)) {
      const value = words.shift();
      if (value === undefined) refuse(`${word} needs a value`);
      if (word === "--only") parsed.only.push(...value.split(","));
      else parsed[word.slice(2)] = value;
    } else refuse(`unknown option: ${word}`);
  }
  const unknown = parsed.only.find((name) => !WORKLOADS.some((workload) => workload.name === name));
  if (unknown !== undefined) refuse(`unknown workload: ${unknown}`);
  parsed.rounds = Number(parsed.rounds ?? (parsed.quick ? 3 : 5));
  if (!Number.isSafeInteger(parsed.rounds) || parsed.rounds < 1) refuse("--rounds must be a count from 1");
  return parsed;
}

function refuse(message) {
  console.error(`bench: ${message}\n\n${HELP}`);
  process.exit(2);
}
