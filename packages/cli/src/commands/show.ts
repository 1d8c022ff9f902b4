/**
 * `coppice show`: what a document holds, as text where it is text and as JSON where not, now or as it was.
 * For looking at; what is to be read back is `export`.
 */

import type { Command } from "commander";
import { EXIT, type ExitCode } from "../errors.js";
import { AT, examples, modelsCommand, parseMoment, type StoreOptions } from "../options.js";
import { printable } from "../output.js";
import { loadPackage } from "../packages.js";
import type { Runtime } from "../runtime.js";
import { withStorage } from "../store.js";
import { existing, notYet } from "./document.js";

interface Options extends StoreOptions {
  readonly at?: ReturnType<typeof parseMoment>;
}

export function showCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return modelsCommand("show", "print what a document holds, now or as it was")
    .argument("<id>", "the document")
    .option("--at <moment>", AT, parseMoment)
    .addHelpText(
      "after",
      examples(
        ["coppice show notes", "as it is"],
        ["coppice show notes --at v1", "as it was when it was tagged"],
        ["coppice show notes --json", "with its clock, model and parts as one line of JSON"],
      ),
    )
    .action(async (id: string, options: Options) => done(await show(runtime, id, options)));
}

async function show(runtime: Runtime, id: string, { at, ...options }: Options): Promise<ExitCode> {
  const { out } = runtime;
  const { contentOf } = await loadPackage("@coppice/server", () => import("@coppice/server"));
  return withStorage(runtime, { ...options, onlyReads: true, ids: [id] }, async (storage) => {
    const handle = await storage.load(id, at === undefined ? {} : { at });
    if (handle === undefined) {
      await existing(storage, id);
      throw notYet(id);
    }
    const { clock, model, doc } = handle;
    const parts = contentOf(doc);
    await handle.close({ discard: true });
    if (options.json) {
      await out.json({ id, clock, model, parts });
      return EXIT.ok;
    }
    for (const { name, text } of parts) {
      if (parts.length > 1) await out.line(out.style("dim", `${printable(name)}:`));
      // Line breaks and tabs are text; what else a terminal would obey is shown.
      await out.line(text.replace(/[^\n\t]+/g, printable));
    }
    return EXIT.ok;
  });
}
