import { readFile } from "node:fs/promises";
import { CoppiceError, ERROR_CODES } from "coppice";
import { describe, expect, test } from "vitest";
import {
  CommandError,
  type CommandErrorCode,
  describeError,
  EXIT,
  errorOfChild,
  FACTS,
  worst,
} from "../src/errors.js";
import { listed, tellFailures } from "../src/failures.js";
import { parseCount, parseDuration, parsePositive } from "../src/options.js";
import {
  byteSize,
  count,
  displayWidth,
  duration,
  Output,
  plural,
  printable,
  type Sink,
  Table,
  timestamp,
  toJson,
} from "../src/output.js";
import { loadPackage } from "../src/packages.js";
import { Progress } from "../src/progress.js";
import { parseStore } from "../src/store.js";

function sink(options: { isTTY?: boolean; columns?: number } = {}): Sink & { text: string } {
  return {
    ...options,
    text: "",
    write(text: string) {
      this.text += text;
      return true;
    },
  };
}

describe("colour and progress", () => {
  test("[CL5] colour appears on a terminal only, and never with NO_COLOR or on a dumb terminal", () => {
    const style = (isTTY: boolean, env: Record<string, string>) =>
      new Output(sink({ isTTY }), env).style("red", "x");
    expect(style(true, {})).toBe("\u001b[31mx\u001b[39m");
    expect(style(true, { NO_COLOR: "1" })).toBe("x");
    expect(style(true, { NO_COLOR: "" })).toBe("\u001b[31mx\u001b[39m");
    expect(style(true, { TERM: "dumb" })).toBe("x");
    expect(style(false, {})).toBe("x");
  });

  test("[CL6] progress draws one line on a terminal, takes it away again, and writes nothing elsewhere", () => {
    const terminal = sink({ isTTY: true, columns: 60 });
    const shown = new Progress(new Output(terminal, {}), "writing", 200);
    shown.update(50, "durable");
    const erase = "\r\u001b[K";
    expect(terminal.text.startsWith(`${erase}writing  [######..................]   25%  50/200`)).toBe(true);
    expect(terminal.text.length).toBeLessThan(60 + 4);
    shown.finish();
    expect(terminal.text.endsWith("\r\u001b[K")).toBe(true);
    const pipe = sink();
    const hidden = new Progress(new Output(pipe, {}), "writing", 200);
    hidden.update(50);
    hidden.finish();
    expect(pipe.text).toBe("");
  });
});

describe("text", () => {
  test("[CL4] characters that steer a terminal or reorder text are escaped, in JSON too, and JSON stays equal", () => {
    const nasty = "a\u001b[2J\r\n\u0000\u007f\u009b\u202e\u2028b\u{1f331}é";
    const shown = printable(nasty);
    expect(shown).toBe("a\\u001b[2J\\u000d\\u000a\\u0000\\u007f\\u009b\\u202e\\u2028b\u{1f331}é");
    const json = toJson({ nasty });
    expect(json).not.toMatch(/[^\u0020-\u007e\u00a0-\u2027\ud800-\udfff]/);
    expect(JSON.parse(json)).toEqual({ nasty });
  });

  test("[CL3] JSON keeps absent facts as null and bytes as base64", () => {
    expect(toJson({ a: undefined, b: new Uint8Array([1, 2, 255]) })).toBe('{"a":null,"b":"AQL/"}');
  });

  test("[CL11] a table aligns its columns by what a terminal shows, also across portions", () => {
    const table = new Table([{ name: "id" }, { name: "clock", align: "right" }]);
    const rows = [
      ["漢字", "7"],
      ["notes", "1,234"],
    ];
    expect(table.header((text) => text, rows) + table.rows(rows)).toBe(
      "id     clock\n漢字       7\nnotes  1,234\n",
    );
    expect(table.rows([["a", "1"]])).toBe("a          1\n");
    expect(displayWidth("e\u0301\u{1f331}")).toBe(3);
  });

  test("[CL11] figures have units and thousands separators", () => {
    expect([count(0), count(999), count(1234567), count(12.34, 1)]).toEqual([
      "0",
      "999",
      "1,234,567",
      "12.3",
    ]);
    expect([byteSize(0), byteSize(1023), byteSize(1536), byteSize(3 * 1024 ** 3)]).toEqual([
      "0 B",
      "1023 B",
      "1.5 KiB",
      "3.0 GiB",
    ]);
    expect([duration(0.85), duration(1.234), duration(345.6), duration(3400)]).toEqual([
      "850 µs",
      "1.2 ms",
      "346 ms",
      "3.4 s",
    ]);
    expect([plural(1, "event"), plural(2000, "event")]).toEqual(["1 event", "2,000 events"]);
    expect([timestamp(0), timestamp(undefined), timestamp(Number.NaN)]).toEqual([
      "1970-01-01 00:00:00Z",
      "-",
      "-",
    ]);
  });
});

describe("what is written on the command line", () => {
  test("[CL17] durations need a unit and counts are whole numbers", () => {
    expect(["500ms", "30s", "1.5m", "2h", "7d"].map(parseDuration)).toEqual([
      500, 30_000, 90_000, 7_200_000, 604_800_000,
    ]);
    for (const wrong of ["", "10", "-1s", "1w", "1 s", "1e3s"]) expect(() => parseDuration(wrong)).toThrow();
    expect(parseCount("0")).toBe(0);
    for (const wrong of ["", "-1", "1.5", "x", "9".repeat(20)]) expect(() => parseCount(wrong)).toThrow();
    expect(() => parsePositive("0")).toThrow();
  });

  test("[CL17] a store is level:<path>, with the path as it stands, or memory:", () => {
    expect(parseStore("level:./a b%20#?")).toEqual({ scheme: "level", location: "./a b%20#?" });
    expect(parseStore("level:C:\\data")).toEqual({ scheme: "level", location: "C:\\data" });
    expect(parseStore("memory:")).toEqual({ scheme: "memory" });
    for (const wrong of ["", "./data", "level:", "memory:x", "postgres://host", "LEVEL:x", "level:a\0b"])
      expect(() => parseStore(wrong)).toThrow(expect.objectContaining({ exitCode: EXIT.usage }));
  });

  test("[CL20] a package that is not installed is an error that says what to install", async () => {
    const name = "@coppice/not-there";
    const absent = () =>
      Promise.reject(
        Object.assign(new Error(`Cannot find package '${name}'`), { code: "ERR_MODULE_NOT_FOUND" }),
      );
    await expect(loadPackage(name, absent)).rejects.toMatchObject({
      hint: `Install it: npm install ${name}`,
    });
    const broken = () => Promise.reject(new Error("broken inside"));
    await expect(loadPackage(name, broken)).rejects.toThrow("broken inside");
  });
});

describe("errors", () => {
  test("[CL1] every error of the library has an exit code and a line on what to do", () => {
    for (const code of ERROR_CODES) {
      const { exitCode, hint, kind } = describeError(new CoppiceError(code, "it failed"));
      const expected =
        code === "LOCKED"
          ? 4
          : kind === "corrupt"
            ? 5
            : code === "TAG_UNKNOWN"
              ? EXIT.notFound
              : kind === "invalid" && code !== "EXPORT_INVALID"
                ? EXIT.usage
                : EXIT.failed;
      expect([code, exitCode]).toEqual([code, expected]);
      expect(hint).toMatch(/^[A-Z`].*\.$/);
    }
  });

  test("[CL3] the kinds of the command's own errors are those that the page has", async () => {
    const page = await readFile(new URL("../../../docs/operating.md", import.meta.url), "utf8");
    const rows = [...page.matchAll(/^\| `([A-Z_]+)` \| `([a-z-]+)` \|/gm)];
    expect(rows.map(([, code]) => code).sort()).toEqual(Object.keys(FACTS).sort());
    for (const [, code, kind] of rows)
      expect([code, describeError(new CommandError(code as CommandErrorCode, "x")).kind]).toEqual([
        code,
        kind,
      ]);
  });

  test("[CL18] an error shows what the system said underneath", () => {
    const root = new Error("EACCES: permission denied");
    const wrapped = new CoppiceError("UNAVAILABLE", "could not be opened", {
      cause: new Error("outer", { cause: root }),
    });
    expect(describeError(wrapped).message).toBe("could not be opened (EACCES: permission denied)");
    expect(describeError("a string")).toMatchObject({ exitCode: EXIT.failed, message: "a string" });
    expect(describeError(new CommandError("INTERRUPTED", "x")).exitCode).toBe(130);
  });

  test("[CL1] of several failures damage counts most, then failure, then absence", () => {
    expect(worst([])).toBe(0);
    expect(worst([0, 3, 1])).toBe(1);
    expect(worst([3, 5, 1])).toBe(5);
    expect(worst([0, 3])).toBe(3);
  });
});

test("[CL1] the error of a child keeps its code, its hint and the way to end", () => {
  const said = (code: string) =>
    `note\n${JSON.stringify({ error: { code, message: "m", hint: "h", details: {} } })}\n`;
  for (const [code, ending, wanted] of [
    ["LOCKED", 4, { code: "LOCKED", exitCode: 4 }],
    ["NOT_FOUND", 3, { code: "NOT_FOUND", exitCode: 3 }],
    ["LOG_DAMAGED", 5, { code: "CORRUPT", exitCode: 5 }],
    ["UNAVAILABLE", 1, { code: "FAILED", exitCode: 1 }],
    ["UNAVAILABLE", null, { code: "FAILED", exitCode: 1 }],
  ] as const)
    expect(errorOfChild(said(code), ending)).toMatchObject({ ...wanted, message: "m", hint: "h" });
  expect(errorOfChild('a stack\n{"error":{"code', 1)).toBe(undefined);
});

test("[CL162] failures with one cause are one line, however many there are, and others are counted", async () => {
  const failure = (id: string, code: string, message: string) => ({ id, code, message });
  const tell = async (failures: ReturnType<typeof failure>[], failed = failures.length) => {
    const told = sink();
    await tellFailures(new Output(told, {}), failures, failed, "the store");
    return told.text;
  };
  expect(await tell([])).toBe("");
  const many = (length: number, message: (n: number) => string, code = "CORRUPT") =>
    Array.from({ length }, (_, n) => failure(`d${n}`, code, message(n)));
  expect(
    await tell(
      [failure("", "BUSY", "busy"), ...many(1000, (n) => `no room (bytes=${n})`, "STORE_FULL")],
      2017,
    ),
  ).toBe(
    "failed the store: busy\n" +
      "failed 1,000 documents: no room (bytes=0); the first: d0\nfailed 1,016 more\n",
  );
  const different = many(300, (n) => `damaged at ${n}`);
  expect((await tell(different)).split("\n").slice(-3)).toEqual([
    "failed d99: damaged at 99",
    "failed 200 more",
    "",
  ]);
  expect(listed(different)).toHaveLength(100);
});
