/** The runner of examples itself: a page with faults must not pass. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { compileExamples, type Example, examplesOf, openWorkshop, runExample } from "../support/docs.js";

const FENCE = "`".repeat(3);

function page(...blocks: [info: string, body: string][]): string {
  return `# Page\n\n${blocks.map(([info, body]) => `${FENCE}${info}\n${body}\n${FENCE}\n`).join("\n")}`;
}

function read(text: string): ReturnType<typeof examplesOf> {
  return examplesOf({ path: "page.md", text });
}

describe("reading a page", () => {
  test("[DOC1] an example keeps the line numbers of its page", () => {
    const [example] = read(page(["ts", "const one = 1;"])).examples;
    expect(example?.source.split("\n")[3]).toBe("const one = 1;");
    expect(example?.line).toBe(3);
  });

  test("[DOC1] blocks stand alone unless they say that they continue", () => {
    const { examples, problems } = read(
      page(["ts", "const a = 1;"], ["ts", "const b = 2;"], ["ts continue", "b;"]),
    );
    expect(problems).toEqual([]);
    expect(examples.map((example) => example.source.trim().split(/\s*\n\s*/))).toEqual([
      ["const a = 1;"],
      ["const b = 2;", "b;"],
    ]);
  });

  test("[DOC1] unknown words, open fences and outputs of nothing are reported with their place", () => {
    expect(read(page(["ts norun", "1;"])).problems).toEqual(["page.md:3: unknown word after ts: norun"]);
    expect(read(page(["text output", "1"])).problems).toEqual(["page.md:3: the output of no example"]);
    expect(read(page(["ts continue", "1;"])).problems).toEqual(["page.md:3: continues nothing"]);
    expect(read(`# Page\n\n${FENCE}ts\n1;\n`).problems).toEqual(["page.md:3: the fence is never closed"]);
    expect(read(page(["ts no-run", "1;"], ["text output", "1"])).problems).toEqual([
      "page.md:3: an output that is never compared",
    ]);
  });
});

describe("running", () => {
  const workshop = openWorkshop();
  const sources = {
    good: page(
      ["ts", "const n: number = await Promise.resolve(2);\nconsole.log(n + 1);"],
      ["text output", "3"],
    ),
    wrongType: page(["ts", 'const n: number = "two";\nconsole.log(n);']),
    throws: page(["ts", 'console.log("before");\nthrow new RangeError("as the page does not say");']),
    hangs: page(["ts", "await new Promise(() => {});"]),
  };
  const names = Object.keys(sources) as (keyof typeof sources)[];
  let programs: ReturnType<typeof compileExamples> = [];
  const program = (name: keyof typeof sources) => programs[names.indexOf(name)] ?? { file: "", messages: [] };

  beforeAll(() => {
    const examples = names.map((name) => read(sources[name]).examples[0] as Example);
    programs = compileExamples(examples, workshop.folder);
  });
  afterAll(() => workshop[Symbol.dispose]());

  test("[DOC2] a sound example compiles and its output is seen", async () => {
    expect(program("good").messages).toEqual([]);
    expect(await runExample(program("good").file)).toEqual({ output: "3", failure: undefined });
  });

  test("[DOC2] a wrong type is reported at its line of the page", () => {
    expect(program("wrongType").messages).toEqual([
      "page.md:4: Type 'string' is not assignable to type 'number'.",
    ]);
  });

  test("[DOC2] an example that throws or never settles has failed", async () => {
    const thrown = await runExample(program("throws").file);
    expect(thrown.output).toBe("before");
    expect(thrown.failure).toMatch(/^exit code 1\n[\s\S]*RangeError: as the page does not say/);
    expect((await runExample(program("hangs").file)).failure).toMatch(/^exit code 13\n/);
  });
});
