/**
 * Every fenced example of the documentation is a test; `test/support/docs.ts` says how fences are marked.
 * Needs the built packages (`npm run build`), because users have nothing else.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { compileExamples, examplesOf, openWorkshop, pagesOf, ROOT, runExample } from "../support/docs.js";

const pages = pagesOf(ROOT).map(examplesOf);
const examples = pages.flatMap((page) => page.examples);
const workshop = openWorkshop();
let compiled: ReturnType<typeof compileExamples> = [];

beforeAll(() => {
  if (!existsSync(join(ROOT, "packages/core/dist/index.d.ts")))
    throw new Error("the packages are not built: run `npm run build` first");
  compiled = compileExamples(examples, workshop.folder);
});

afterAll(() => workshop[Symbol.dispose]());

describe("examples", () => {
  test("[DOC1] every fence is closed and marked with words that are known", () => {
    expect(pages.flatMap((page) => page.problems)).toEqual([]);
  });

  for (const [index, example] of examples.entries()) {
    const promise = example.output === undefined ? "runs" : "prints what the page says";
    test(`[DOC2] ${example.page}:${example.line} compiles${example.runs ? ` and ${promise}` : ""}`, async () => {
      const program = compiled[index];
      expect(program?.messages).toEqual([]);
      if (program === undefined || !example.runs) return;
      const { output, failure } = await runExample(program.file);
      expect(failure).toBeUndefined();
      if (example.output !== undefined) expect(output).toBe(example.output);
    });
  }
});
