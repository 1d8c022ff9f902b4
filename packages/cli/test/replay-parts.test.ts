import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { equalBytes } from "coppice";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import * as Y from "yjs";
import { PlainText } from "../src/replay/plain-text.js";
import { findRecording, firstEdits, type Recording, readRecording } from "../src/replay/recording.js";
import { TEXT_NAME, type Typed, typeRecording } from "../src/replay/typing.js";
import { typist } from "../src/replay/typist.js";
import { Updates } from "../src/replay/updates.js";

function typeAll(recording: Recording, seed = 1): Promise<Typed> {
  return typeRecording(recording, {
    seed,
    signal: new AbortController().signal,
    onProgress: () => undefined,
  });
}

function textOf({ updates }: Typed, until: number = updates.count): string {
  const doc = new Y.Doc();
  for (let index = 0; index < until; index++) Y.applyUpdate(doc, updates.at(index));
  return doc.getText(TEXT_NAME).toString();
}

function concurrent(edits: Recording["edits"], end: string | undefined): Recording {
  return { name: "two", source: "here", concurrent: true, agents: 2, start: "", edits, end };
}

describe("the yardstick", () => {
  test("[CL16] the plain text equals an array of characters under any edits, in code points and in UTF-16", () => {
    const edit = fc.tuple(fc.nat(), fc.nat(5), fc.string({ unit: "binary", maxLength: 6 }));
    fc.assert(
      fc.property(fc.array(edit, { maxLength: 60 }), fc.nat(), (edits, somewhere) => {
        const plain = new PlainText();
        const characters: string[] = [];
        for (const [where, deleted, inserted] of edits) {
          const position = where % (characters.length + 1);
          const count = Math.min(deleted, characters.length - position);
          plain.replace(position, count, inserted);
          characters.splice(position, count, ...inserted);
        }
        const position = somewhere % (characters.length + 1);
        expect(plain.toString()).toBe(characters.join(""));
        expect(plain.length).toBe(characters.length);
        expect(plain.utf16(position)).toBe(characters.slice(0, position).join("").length);
      }),
    );
  });

  test("[CL16] it grows past its first memory, and refuses edits outside the text", () => {
    const plain = new PlainText();
    plain.replace(0, 0, "ab".repeat(40_000));
    plain.replace(40_000, 2, "🌱".repeat(60_000));
    expect(plain.toString()).toBe("ab".repeat(20_000) + "🌱".repeat(60_000) + "ab".repeat(19_999));
    expect(() => plain.replace(plain.length, 1, "")).toThrow(RangeError);
    expect(() => plain.replace(-1, 0, "x")).toThrow(RangeError);
  });
});

describe("the typist", () => {
  test("[CL16] types the same for one seed and another text for another, with all its habits", () => {
    const first = typist(7, 5000);
    expect(typist(7, 5000)).toEqual(first);
    expect(typist(8, 5000).end).not.toBe(first.end);
    expect(first.edits).toHaveLength(5000);
    const patches = first.edits.flatMap(({ patches: all }) => all);
    expect(patches.some(([, deleted]) => deleted > 1)).toBe(true);
    expect(patches.some(([, , inserted]) => inserted.length === 2)).toBe(true);
    const plain = new PlainText();
    for (const [position, deleted, inserted] of patches) plain.replace(position, deleted, inserted);
    expect(plain.toString()).toBe(first.end);
  });
});

describe("typing through Yjs", () => {
  test("[CL16] gives an event for each edit, the recorded text, and the same bytes for the same seed", async () => {
    const recording = typist(3, 3000);
    const typed = await typeAll(recording);
    expect(typed.updates.count).toBe(3000);
    expect(textOf(typed)).toBe(recording.end);
    expect(textOf(typed, typed.middle)).toBe(typed.middleText);
    const again = await typeAll(recording);
    expect(again.updates.pack(0)).toEqual(typed.updates.pack(0));
    expect((await typeAll(recording, 2)).updates.pack(0)).not.toEqual(typed.updates.pack(0));
  });

  test("[CL16] part of a recording has no recorded end, and a wrong end is found", async () => {
    const recording = typist(3, 500);
    const part = firstEdits(recording, 100);
    expect(part.end).toBeUndefined();
    expect((await typeAll(part)).updates.count).toBe(100);
    await expect(typeAll({ ...recording, end: `${recording.end}.` })).rejects.toThrow("do not give the text");
  });

  test("[CL16] replicas of a concurrent recording see each other's edits exactly when the parents say", async () => {
    const edits = [
      { parents: [], agent: 0, patches: [[0, 0, "a🌱d"]] },
      { parents: [0], agent: 1, patches: [[3, 0, "!"]] },
      { parents: [0], agent: 0, patches: [[2, 0, "bc"]] },
      { parents: [1, 2], agent: 1, patches: [[5, 1, "?"]] },
    ] as const;
    const typed = await typeAll(concurrent(edits, "a🌱bcd?"));
    expect(textOf(typed)).toBe("a🌱bcd?");
    expect(typed.updates.count).toBe(4);
  });

  test("[CL16] a concurrent recording whose agent forgets what it saw is refused", async () => {
    const edits = [
      { parents: [], agent: 0, patches: [[0, 0, "a"]] },
      { parents: [], agent: 0, patches: [[0, 0, "b"]] },
    ] as const;
    await expect(typeAll(concurrent(edits, undefined))).rejects.toThrow(
      "does not follow its agent's earlier",
    );
  });

  test("[CL16] updates keep their bytes through growth, packing and unpacking", () => {
    const sizes = [0, 1, 700_000, 3, 900_000, 0, 5];
    const updates = new Updates();
    for (const [index, size] of sizes.entries()) updates.push(new Uint8Array(size).fill(index));
    for (let more = 0; more < 70_000; more++) updates.push(new Uint8Array([more & 255]));
    const tail = Updates.unpack(updates.pack(2));
    expect(tail.count).toBe(updates.count - 2);
    for (const index of [2, 3, 4, 5, 6, 7, 70_006])
      expect(equalBytes(tail.at(index - 2), updates.at(index))).toBe(true);
    expect(equalBytes(updates.at(4), new Uint8Array(900_000).fill(4))).toBe(true);
  });
});

describe("recordings", () => {
  let folder = "";
  const save = (name: string, content: unknown) =>
    writeFile(join(folder, name), gzipSync(typeof content === "string" ? content : JSON.stringify(content)));
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "coppice-recordings-"));
    await save("good.json.gz", { startContent: "", endContent: "a", txns: [{ patches: [[0, 0, "a"]] }] });
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  test("[CL16] are found by name in COPPICE_TRACES, or by path", async () => {
    const path = join(folder, "good.json.gz");
    const here = { COPPICE_TRACES: folder };
    expect(await findRecording("good", here, "/nowhere/main.js")).toBe(path);
    expect(await findRecording("good.json.gz", here, "/nowhere/main.js")).toBe(path);
    expect(await findRecording(path, {}, "/nowhere/main.js")).toBe(path);
    expect(await findRecording("absent", here, "/nowhere/main.js")).toBeUndefined();
    expect(await readRecording(path)).toMatchObject({ name: "good", concurrent: false, end: "a" });
  });

  test("[CL16] what is none is refused with a reason", async () => {
    const broken: Record<string, unknown> = {
      text: "not json",
      empty: {},
      patches: { endContent: "", txns: [{ patches: [[0, "x", ""]] }] },
      parents: {
        kind: "concurrent",
        numAgents: 2,
        endContent: "",
        txns: [{ patches: [], parents: [3], agent: 0 }],
      },
    };
    for (const [name, content] of Object.entries(broken)) {
      await save(`${name}.json.gz`, content);
      await expect(readRecording(join(folder, `${name}.json.gz`))).rejects.toThrow("is no recording");
    }
    await writeFile(join(folder, "plain.json.gz"), "{}");
    await expect(readRecording(join(folder, "plain.json.gz"))).rejects.toThrow("it is not gzipped JSON");
  });
});
