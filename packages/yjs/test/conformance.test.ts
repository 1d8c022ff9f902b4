import { type ModelSubject, modelCases, runCase } from "coppice/conformance";
import { describe, test } from "vitest";
import * as Y from "yjs";
import { yjs } from "../src/index.js";
import { contentOf, editDoc } from "./editing.js";

function subjectOf(gc: boolean): ModelSubject {
  const subject: ModelSubject<Y.Doc> = {
    name: `yjs, gc ${gc}`,
    model: yjs({ gc }),
    edit: (doc, random) => {
      const empty = doc.store.clients.size === 0;
      if (empty) doc.getText("text").insert(0, "first");
      else editDoc(doc, () => random.below(2 ** 32) / 2 ** 32);
      return doc;
    },
    remove: (doc) => {
      for (const type of [doc.getText("text"), doc.getArray("array"), doc.getXmlFragment("xml")]) {
        if (type.length === 0) continue;
        type.delete(0, 1);
        return doc;
      }
      return undefined;
    },
    content: (doc) =>
      JSON.stringify(contentOf(doc), (_, value) => (typeof value === "bigint" ? `${value}n` : value)),
    receiveDiff: (doc, answer) => {
      Y.applyUpdate(doc, answer);
      return doc;
    },
  };
  return subject as ModelSubject;
}

describe.for([true, false])("[MD] yjs, gc %s", (gc) => {
  const subject = subjectOf(gc);
  for (const item of modelCases) test(item.name, (context) => runCase(item, subject, context.skip));
});
