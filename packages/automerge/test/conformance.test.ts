import * as Automerge from "@automerge/automerge";
import { type ModelSubject, modelCases, runCase } from "coppice/conformance";
import { describe, test } from "vitest";
import { automerge } from "../src/index.js";
import { contentOf, editDoc, type Pad } from "./editing.js";

const subject: ModelSubject<Automerge.Doc<Pad>> = {
  name: "automerge",
  model: automerge<Pad>(),
  edit: (doc, random) => editDoc(doc, () => random.below(2 ** 32) / 2 ** 32),
  remove: (doc) =>
    doc.text === undefined || doc.text.length === 0
      ? undefined
      : Automerge.change(doc, (pad) => Automerge.splice(pad, ["text"], 0, 1)),
  content: contentOf,
  receiveDiff: (doc, answer) => Automerge.loadIncremental(doc, answer),
};

describe("[MD] automerge", () => {
  for (const item of modelCases) {
    test(item.name, (context) => runCase(item, subject as ModelSubject, context.skip));
  }
});
