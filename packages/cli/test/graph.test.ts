import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { levelBackend } from "@coppice/level";
import { DocumentStorage, type GraphEvent, layOutGraph, type TreeDocument, tree } from "coppice";
import { simulatedEnv } from "coppice/testing";
import { afterAll, describe, expect, test } from "vitest";
import { toLines, toSvg } from "../src/graph/drawing.js";
import { cleanUp, coppice, jsonLines, keystrokes, makeStore, temporaryDirectory } from "./command.js";

afterAll(cleanUp);

const model = tree({ env: simulatedEnv(1) });

/** Two branches from one start, merged, and a third one that stays open. */
function conversation(): TreeDocument {
  const [one, two, three] = [model.create(), model.create(), model.create()];
  const give = (from: TreeDocument, to: TreeDocument) => model.apply(to, from.events());
  one.put({ id: "a" });
  one.put({ id: "b" });
  give(one, two);
  give(one, three);
  for (let i = 0; i < 3; i++) one.put();
  for (let i = 0; i < 2; i++) two.put();
  give(two, one);
  one.undo();
  three.put();
  give(three, one);
  return one;
}

/** The drawing without what differs from run to run: names of replicas and times. */
const shape = (lines: readonly string[]) =>
  lines.map((line) =>
    line
      .replace(/ {2}[0-9a-v]{6} /, "  ")
      .replace(/ {2}\d{4}-\d\d-\d\d.*$/, "")
      .trimEnd(),
  );

describe("coppice graph", () => {
  test("[GR40] a branch opens a lane, a merge closes it, and a diamond ends a critical version", () => {
    const doc = conversation();
    const rows = layOutGraph(doc.events(), doc.criticalVersions());
    const drawn = shape(toLines(rows));
    expect(drawn.filter((line) => line.includes("◆"))).toEqual([
      expect.stringContaining("0–1  2 events  2 critical"),
    ]);
    expect(drawn.at(-1)).toContain("1 undo");
    expect(drawn.join("\n")).toMatch(/├─╮/);
    expect(drawn.join("\n")).toMatch(/[├┤┼]─?.*[╯┴]/);
    expect(rows.map(({ piece }) => piece.events.length).sort()).toEqual([1, 1, 2, 2, 3]);
  });

  test("[GR41] every event is drawn once, after its parents, and open pieces have lanes of their own", () => {
    for (let seed = 1; seed <= 30; seed++) {
      const random = simulatedEnv(seed);
      const below = (end: number) => random.random(1)[0]! % end;
      const docs = Array.from({ length: 4 }, () => model.create());
      for (let step = 0; step < 40; step++) {
        const doc = docs[below(4)]!;
        doc.put();
        if (below(3) === 0) model.apply(docs[below(4)]!, doc.events());
      }
      const all = model.create();
      for (const doc of docs) model.apply(all, doc.events());
      const rows = layOutGraph(all.events(), all.criticalVersions());
      const place = new Map<GraphEvent, number>();
      rows.forEach(({ piece }, index) => {
        for (const event of piece.events) {
          expect(place.has(event)).toBe(false);
          place.set(event, index);
        }
        for (const parent of piece.parents)
          expect(rows.findIndex((row) => row.piece === parent)).toBeLessThan(index);
      });
      expect(place.size).toBe(40);
      const last = (at: number) =>
        Math.max(at, ...rows.map((row, index) => (row.piece.parents.includes(rows[at]!.piece) ? index : 0)));
      rows.forEach((row, at) => {
        const others = rows.filter(
          (other, index) => index < at && other.lane === row.lane && last(index) > at,
        );
        expect(others, `seed ${seed}`).toEqual([]);
      });
      expect(toLines(rows).every((line) => !line.includes("undefined"))).toBe(true);
      expect(toSvg(rows, "<&>").match(/<text /g)).toHaveLength(rows.length + 1);
    }
  });

  test("[GR42] a stored tree is drawn on the terminal, as a picture and as JSON; other documents say what they are", async () => {
    const location = join(await temporaryDirectory(), "data");
    const storage = await DocumentStorage.open({ backend: levelBackend(location), models: [tree()] });
    const events = conversation().events();
    await storage.append("board <1>", events);
    await storage.close();
    const store = `level:${location}`;
    const shown = await coppice(["graph", "board <1>", "--store", store]);
    expect(shown.code).toBe(0);
    expect(shown.stdout).toContain("◆");
    const svg = join(await temporaryDirectory(), "board.svg");
    expect(await coppice(["graph", "board <1>", "--store", store, "--svg", svg])).toMatchObject({
      code: 0,
      stdout: "",
    });
    const picture = await readFile(svg, "utf8");
    expect(picture).toMatch(/^<svg [\s\S]*<\/svg>\n$/);
    expect(picture).toContain("<title>board &lt;1&gt;</title>");
    const other = join(await temporaryDirectory(), "other.svg");
    const both = await coppice(["graph", "board <1>", "--store", store, "--svg", other, "--json"]);
    expect(jsonLines(both.stdout)).toEqual([{ id: "board <1>", file: other }]);
    expect(await readFile(other, "utf8")).toBe(picture);
    const lines = jsonLines((await coppice(["graph", "board <1>", "--store", store, "--json"])).stdout);
    expect(lines).toHaveLength(events.length);
    expect(lines.filter(({ critical }) => critical === true)).toHaveLength(2);
    const notes = await makeStore((other) => other.append("notes", keystrokes("a")));
    const refused = await coppice(["graph", "notes", "--store", notes.url]);
    expect(refused.code).not.toBe(0);
    expect(refused.stderr).toContain("no event graph, but of the model yjs");
    expect((await coppice(["graph", "nothing", "--store", notes.url])).code).toBe(3);
  });

  test("[CL175] graph --svg says what it has drawn, and overwrites a file only with --force", async () => {
    const location = join(await temporaryDirectory(), "data");
    const storage = await DocumentStorage.open({ backend: levelBackend(location), models: [tree()] });
    await storage.append("board", conversation().events());
    await storage.close();
    const svg = join(await temporaryDirectory(), "board.svg");
    const args = ["graph", "board", "--store", `level:${location}`];
    const draw = (...more: string[]) => coppice([...args, "--svg", svg, ...more]);
    expect(await draw()).toEqual({ code: 0, stdout: "", stderr: `drew 9 events of board into ${svg}\n` });
    const picture = await readFile(svg, "utf8");
    await writeFile(svg, "mine");
    const kept = await draw();
    expect([kept.code, kept.stderr, await readFile(svg, "utf8")]).toEqual([
      1,
      `coppice: there is a file ${svg} already; nothing was written\nChoose another name, or use --force.\n`,
      "mine",
    ]);
    expect((await draw("--force")).code).toBe(0);
    expect(await readFile(svg, "utf8")).toBe(picture);
    expect((await coppice([...args, "--force"])).code).toBe(2);
  });
});
