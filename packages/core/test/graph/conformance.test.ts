import { type ModelSubject, modelCases, runCase } from "coppice/conformance";
import { describe, test } from "vitest";
import { contentOf, type LedgerDoc, type LedgerEvent, ledger, randomEntry } from "./ledger.js";

function subjectOf(window: number | undefined): ModelSubject {
  const model = ledger(window === undefined ? {} : { window });
  const subject: ModelSubject<LedgerDoc, LedgerEvent> = {
    name: "ledger",
    model,
    edit: (doc, random) => {
      if (random.chance(0.1) && doc.canUndo) doc.undo();
      else doc.emit(randomEntry((end) => random.below(end)));
      return doc;
    },
    remove: (doc) => {
      const [key] = Object.keys(doc.state);
      if (key === undefined) return undefined;
      doc.emit({ drop: key });
      return doc;
    },
    content: (doc) => contentOf(doc.state),
    receiveDiff: (doc, answer) => model.receiveDiff(doc, answer).doc,
  };
  return subject;
}

describe.for([undefined, Number.POSITIVE_INFINITY])("[MD] graph, window %s", (window) => {
  const subject = subjectOf(window);
  for (const item of modelCases) test(item.name, (context) => runCase(item, subject, context.skip));
});
