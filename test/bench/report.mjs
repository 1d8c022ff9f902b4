/**
 * What was measured, for people (tables), for pages (Markdown) and for programs (JSON).
 *
 * A figure with a spread is shown as `median (min–max)`. Machines are described in general words only: nothing here
 * names a host, a user or a path.
 */
import { statfs } from "node:fs/promises";
import { cpus, totalmem } from "node:os";

const FILE_SYSTEMS = new Map([
  [0xef53, "ext4"],
  [0x58465342, "xfs"],
  [0x9123683e, "btrfs"],
  [0x2fc12fc1, "zfs"],
  [0x01021994, "tmpfs (in memory: syncs cost nothing there)"],
  [0x794c7630, "overlayfs"],
]);

export async function describeMachine(folder) {
  const { type } = await statfs(folder);
  return {
    date: new Date().toISOString().slice(0, 10),
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    cpus: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    fileSystem: FILE_SYSTEMS.get(type) ?? "unknown",
  };
}

export function toJson(report) {
  return JSON.stringify(report, undefined, 2);
}

export function toText(report) {
  const parts = tablesOf(report).map(({ title, note, columns, rows }) => {
    return `${title}\n${note}\n\n${textTable(columns, rows)}`;
  });
  const { targets, ...table } = targetTable(report);
  const closing = targets.length === 0 ? "" : `\n\nTargets\n\n${textTable(table.columns, table.rows)}`;
  return `${introduction(report).join("\n")}\n\n${parts.join("\n\n")}${closing}`;
}

export function toMarkdown(report) {
  const { targets, ...table } = targetTable(report);
  const sections = tablesOf(report).map(({ title, note, columns, rows }) => {
    return `## ${title}\n\n${note}\n\n${markdownTable(columns, rows)}`;
  });
  return `# Benchmark report

Written by \`npm run bench -- --markdown <file>\`; do not edit. The figures of different machines, or of different hours
of a shared one, are not comparable; the ratios within one run are.

${introduction(report)
  .map((line) => `- ${line}`)
  .join("\n")}

## Targets

${targets.length === 0 ? "None in this run." : markdownTable(table.columns, table.rows)}

${sections.join("\n\n")}
`;
}

function introduction({ machine, trace, rounds, quick }) {
  const { date, node, platform, cpus: count, memoryGiB, fileSystem } = machine;
  return [
    `${date}, Node ${node}, ${platform}, ${count} processors, ${memoryGiB} GiB, ${fileSystem}`,
    `input: ${trace}`,
    `${rounds} rounds, all sides in turn; figures are medians over the rounds, in brackets min–max`,
    "coppice syncs before it acknowledges (durability power); y-leveldb and classic-level's puts never do",
    ...(quick ? ["a quick run with small inputs: not to be quoted"] : []),
  ];
}

function tablesOf({ results }) {
  return results.flatMap(({ tables }) => tables);
}

function targetTable({ results }) {
  const targets = results.flatMap((result) => result.targets);
  const columns = [
    ["what", "text", "target"],
    ["wanted", "text"],
    ["measured", "ratio"],
    ["met", "text"],
  ];
  const rows = targets.map(({ what, wanted, measured, met }) => {
    return { what, wanted, measured, met: met ? "yes" : "no" };
  });
  return { targets, columns, rows };
}

const FORMATS = {
  text: (value) => value,
  count: (value) => Math.round(value).toLocaleString("en"),
  decimal: (value) => value.toFixed(1),
  ms: (value) => milliseconds(value),
  msSpread: (value) => spread(value, milliseconds),
  rate: (value) => spread(value, (rate) => (Math.round(rate / 100) * 100).toLocaleString("en")),
  ratio: (value) => `${spread(value, ratio)} ×`,
  bytes: (value) => `${(value / 2 ** 20).toFixed(1)} MiB`,
};

function spread({ median, min, max }, format) {
  return min === max ? format(median) : `${format(median)} (${format(min)}–${format(max)})`;
}

function milliseconds(value) {
  return value.toFixed(value < 1 ? 3 : value < 10 ? 2 : 1);
}

function ratio(value) {
  return value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
}

function cell([field, format], row) {
  return row[field] === undefined ? "" : FORMATS[format](row[field]);
}

function heading([field, , title]) {
  return title ?? field;
}

function textTable(columns, rows) {
  const lines = [columns.map(heading), ...rows.map((row) => columns.map((column) => cell(column, row)))];
  const widths = columns.map((_, at) => Math.max(...lines.map((line) => line[at].length)));
  const align = (text, at) => (isText(columns[at]) ? text.padEnd(widths[at]) : text.padStart(widths[at]));
  return lines.map((line) => `  ${line.map(align).join("  ")}`.trimEnd()).join("\n");
}

function markdownTable(columns, rows) {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  const rule = columns.map((column) => (isText(column) ? "---" : "---:"));
  return [
    line(columns.map(heading)),
    line(rule),
    ...rows.map((row) => line(columns.map((each) => cell(each, row)))),
  ].join("\n");
}

function isText([, format]) {
  return format === "text";
}
