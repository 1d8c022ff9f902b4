/**
 * The fault laboratory by itself: `npm run test:crash` does some minutes of everything in test/crash, and
 * `npm run test:crash -- --hours 8` as much as fits into the time, one experiment after the other, and
 * writes what it counted to docs/reports/laboratory.md when nothing failed.
 *
 * `--seed N` searches elsewhere; without it a long run takes the time as its seed and prints it. Each
 * failure prints the command that does it again.
 *
 * A run may be done in pieces: `--count N` does so many of each experiment in place of a time, `--only
 * PATTERN` takes those whose title matches, and `--notes FOLDER` adds what a piece without a failure counted to
 * what is there. `--report --notes FOLDER` runs nothing, and writes the report about all pieces. A piece that was
 * interrupted or failed is not counted.
 */
import { spawnSync } from "node:child_process";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { availableParallelism, release, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";

/** How many experiments share the time. */
const EXPERIMENTS = 32;
/** About how long a copy that is killed takes. */
const KILL_SECONDS = 2;
const FILES = [
  "test/crash",
  ...["crash", "faults", "bits"].map((name) => `packages/file/test/${name}.test.ts`),
  ...["hostile.test.ts", "hostile-messages.test.ts"],
];

const ABOUT = [
  "What each one does is said at the head of its file; its rule in the [specification](../spec.md) is in its title. Numbers of",
  "states, kills, cuts and inputs are what was looked at, each by opening the store and holding it to all that was acknowledged.",
  "",
  "- `simulated`, `errors`: a disk in memory, `packages/file/test`. Moments where nothing is pending count once, not for each model.",
  "  `opened`: so many of a run's states differ in their bytes; each of the others was held to what was found in its equal.",
  "- `recorded`: system calls of real processes, and what a loss of power may leave of them at any moment. `unfinished` states are of",
  "  a store that was never opened, and were refused. `merging`: a merged segment was in use.",
  "- `kills`: SIGKILL of a process with 64 events in flight on a real disk; `inFlight` are stored and were never acknowledged.",
  "- `power`: the shutdown call of a real ext4 or XFS on a loop device, while eight callers append.",
  "- `faults`, `device`: system calls made to fail, and a block device that loses its cache or fails; faults of `none met` were placed",
  "  beyond the last such call.",
  "- `damage`: files flipped, zeroed, cut, swapped, put back; `excused` is the stated exception, the end of LevelDB's newest log.",
  "- `bits`: each bit of a sealed store flipped: `found` when it is opened or read, `foundByCheck` where no value lies; `harmless`",
  "  where nothing reads or a hint is passed over. No flip gave another store without an error. Of `wholeStores` the whole was",
  "  opened and read too, and came to the same.",
  "- `hostile`: inputs of decoders, half of those with a checksum with it put right (`sealed`); each was `read` or `refused` by name.",
];

const root = resolve(import.meta.dirname, "..");
const USAGE = `usage: npm run test:crash -- [options] [file …]

Without options: some minutes of every experiment.

  --hours <number>   as much as fits into so many hours; writes docs/reports/laboratory.md when nothing failed
  --count <number>   so many of each experiment, in place of a time
  --seed <number>    searches elsewhere; a long run without it takes the time, and prints it
  --only <pattern>   experiments whose title matches
  --notes <folder>   adds what was counted to what is there, when nothing failed
  --report           runs nothing: writes the report about all that is in the notes
`;

const { values, positionals } = argumentsOrUsage();
const { hours, count } = values;
const long = hours !== undefined || count !== undefined;
const seed = values.seed ?? (long ? String(Math.floor(Date.now() / 1000)) : "20261120");

if (values.report) writeReport(values.notes);
else run();

function argumentsOrUsage() {
  try {
    const given = parseArgs({
      allowPositionals: true,
      options: {
        hours: { type: "string" },
        count: { type: "string" },
        seed: { type: "string" },
        only: { type: "string" },
        notes: { type: "string" },
        report: { type: "boolean", default: false },
        help: { type: "boolean", default: false },
      },
    });
    for (const name of ["hours", "count"]) {
      const value = given.values[name];
      if (value !== undefined && !(Number(value) > 0))
        throw new TypeError(`--${name} takes a number above 0`);
    }
    if (given.values.report && given.values.notes === undefined)
      throw new TypeError("--report needs --notes");
    if (!given.values.help) return given;
    console.log(USAGE);
    process.exit(0);
  } catch (error) {
    console.error(`${error.message}\n\n${USAGE}`);
    process.exit(2);
  }
}

function run() {
  const own = mkdtempSync(join(tmpdir(), "coppice-notes-"));
  const started = Date.now();
  console.log(`seed ${seed}`);
  const { status, signal } = spawnSync(
    process.execPath,
    [
      join(root, "node_modules", "vitest", "vitest.mjs"),
      ...["run", "--no-color", "--config", "test/vitest.config.ts", "--maxWorkers=1"],
      ...(values.only === undefined ? [] : ["-t", values.only]),
      ...(positionals.length > 0 ? positionals : FILES),
    ],
    { cwd: root, stdio: ["ignore", "inherit", "inherit"], env: { ...process.env, ...effort(own) } },
  );
  try {
    if (status === 0 && values.notes !== undefined) keep(own, values.notes, started);
    else if (status === 0 && hours !== undefined) {
      keep(own, own, started);
      writeReport(own);
    }
  } finally {
    rmSync(own, { recursive: true, force: true });
  }
  process.exitCode = status ?? 1;
  if (signal !== null) console.log(`ended by ${signal}`);
}

function effort(notes) {
  const common = { COPPICE_LAB_SEED: seed, COPPICE_LAB_NOTES: notes };
  if (count !== undefined) return { ...common, COPPICE_LAB_COUNT: count };
  if (hours === undefined) return { ...common, COPPICE_LAB_FACTOR: "4", COPPICE_KILLS: "40" };
  const minutes = (Number(hours) * 60) / EXPERIMENTS;
  const kills = String(Math.max(20, Math.floor((minutes * 60) / KILL_SECONDS)));
  return { ...common, COPPICE_LAB_MINUTES: String(minutes), COPPICE_KILLS: kills };
}

/** Adds the lines of one piece, and the command that it was. */
function keep(from, to, started) {
  mkdirSync(to, { recursive: true });
  const lines = readdirSync(from)
    .filter((name) => name.endsWith(".jsonl"))
    .map((name) => readFileSync(join(from, name), "utf8"))
    .join("");
  appendFileSync(join(to, "counts"), lines);
  const words = process.argv
    .slice(2)
    .filter((word, i, all) => word !== "--notes" && all[i - 1] !== "--notes");
  if (values.seed === undefined) words.push("--seed", seed);
  const command = words.map((word) => (/^[\w./=-]+$/.test(word) ? word : `'${word}'`)).join(" ");
  const seconds = Math.round((Date.now() - started) / 1000);
  appendFileSync(join(to, "commands"), `${JSON.stringify({ command, seconds })}\n`);
}

function linesOf(notes, name) {
  const lines = readFileSync(join(notes, name), "utf8").split("\n");
  return lines.filter((line) => line !== "").map((line) => JSON.parse(line));
}

/** The counts of all pieces of each experiment, summed up. */
function sums(notes) {
  const byExperiment = new Map();
  for (const { experiment, seed, seconds, ...counts } of linesOf(notes, "counts")) {
    const sum = byExperiment.get(experiment) ?? { seeds: [], seconds: 0, counts: {} };
    byExperiment.set(experiment, sum);
    sum.seeds.push(seed);
    sum.seconds += seconds;
    for (const [what, number] of Object.entries(counts)) sum.counts[what] = (sum.counts[what] ?? 0) + number;
  }
  return [...byExperiment].sort(([a], [b]) => (a < b ? -1 : 1));
}

/** What somebody has to add: paragraphs in a file of the notes. */
function remarksIn(notes) {
  const path = join(notes, "remarks");
  return existsSync(path) ? [...readFileSync(path, "utf8").trim().split("\n"), ""] : [];
}

function writeReport(notes) {
  const rows = sums(notes).map(([experiment, { seeds, seconds, counts }]) => {
    const told = Object.entries(counts).map(([what, number]) => `${what} ${number.toLocaleString("en")}`);
    return `| \`${experiment}\` | ${told.join(", ")} | ${seconds.toLocaleString("en")} | ${seeds.join(" ")} |`;
  });
  const pieces = linesOf(notes, "commands");
  const seconds = pieces.reduce((sum, piece) => sum + piece.seconds, 0);
  const lines = [
    "# The fault laboratory, at length",
    "",
    `_Reference: what ${pieces.length} runs of the laboratory counted in ${seconds.toLocaleString("en")} s. None of them failed; what others found is said below._`,
    "",
    "| experiment | counted | seconds | seeds |",
    "| --- | --- | ---: | --- |",
    ...rows,
    "",
    ...ABOUT,
    "",
    ...remarksIn(notes),
    `Node ${process.versions.node}, Linux ${release()}, ${availableParallelism()} CPUs, one experiment at a time, beside other work.`,
    "The commands (`npm run test:crash -- …`), with the seconds that each took:",
    "",
    "```text",
    ...pieces.map((piece) => `${String(piece.seconds).padStart(5)} s  ${piece.command}`),
    "```",
    "",
  ];
  writeFileSync(join(root, "docs", "reports", "laboratory.md"), lines.join("\n"));
}
