import { type ModelSubject, modelCases, runCase } from "coppice/conformance";
import type { LoroDoc } from "loro-crdt";
import { describe, test } from "vitest";
import { loro } from "../src/index.js";
import { contentOf, editDoc } from "./editing.js";

const subject: ModelSubject<LoroDoc> = {
  name: "loro",
  model: loro(),
  edit: (doc, random) => {
    editDoc(doc, () => random.below(2 ** 32) / 2 ** 32);
    return doc;
  },
  remove: (doc) => {
    const text = doc.getText("text");
    if (text.length === 0) return undefined;
    text.delete(0, 1);
    doc.commit();
    return doc;
  },
  content: contentOf,
  receiveDiff: (doc, answer) => {
    doc.import(answer);
    return doc;
  },
};

describe("[MD] loro", () => {
  for (const item of modelCases) {
    test(item.name, (context) => runCase(item, subject as ModelSubject, context.skip));
  }
});
