/**
 * `coppice graph`: the event graph of a document, oldest first: who wrote at once, where it was merged, and
 * which versions are critical. For documents of the event graph (`tree`); others name no parents.
 */

import { writeFile } from "node:fs/promises";
import type { Command } from "commander";
import { GraphDocument, layOutGraph } from "coppice";
import { CommandError, EXIT, type ExitCode } from "../errors.js";
import { toLines, toSvg } from "../graph/drawing.js";
import { examples, modelsCommand, type StoreOptions } from "../options.js";
import { plural, printable } from "../output.js";
import type { Runtime } from "../runtime.js";
import { withStorage } from "../store.js";
import { noDocument } from "./document.js";
import { existsError } from "./export.js";

interface Options extends StoreOptions {
  readonly svg?: string;
  readonly force?: true;
}

export function graphCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return modelsCommand("graph", "draw the event graph of a document")
    .argument("<id>", "the document, of the model tree")
    .option("--svg <file>", "write a picture instead")
    .option("--force", "with --svg: overwrite the file if it exists")
    .addHelpText(
      "after",
      examples(
        ["coppice graph board", "branches, merges, critical versions (◆)"],
        ["coppice graph board --svg board.svg", "as a picture"],
        ["coppice graph board --json", "each event with its parents, on a line"],
      ),
    )
    .action(async (id: string, options: Options) => done(await draw(runtime, id, options)));
}

function draw(runtime: Runtime, id: string, options: Options): Promise<ExitCode> {
  const { out, err } = runtime;
  if (options.force && options.svg === undefined)
    throw new CommandError("USAGE", "--force belongs to --svg", { hint: "coppice graph --help" });
  return withStorage(runtime, { ...options, onlyReads: true, ids: [id] }, async (storage) => {
    const handle = await storage.load(id);
    if (handle === undefined) throw noDocument(id);
    const { doc } = handle as { readonly doc: unknown };
    if (!(doc instanceof GraphDocument)) {
      throw new CommandError(
        "FAILED",
        `"${printable(id)}" is no event graph, but of the model ${handle.model}`,
        {
          hint: "`coppice history` lists its batches and snapshots.",
          details: { id, model: handle.model },
        },
      );
    }
    const critical = doc.criticalVersions();
    const events = doc.events();
    if (options.svg !== undefined) {
      await save(options.svg, toSvg(layOutGraph(events, critical), printable(id)), options.force === true);
      if (options.json) await out.json({ id, file: options.svg });
      else
        await err.line(
          `drew ${plural(events.length, "event")} of ${printable(id)} into ${printable(options.svg)}`,
        );
    } else if (options.json) {
      const ends = new Set(critical.map(({ replica, sequence }) => `${replica}.${sequence}`));
      for (const { payload: _, ...event } of events) {
        await out.json({ ...event, critical: ends.has(`${event.replica}.${event.sequence}`) });
      }
    } else {
      for (const line of toLines(layOutGraph(events, critical))) await out.line(line);
    }
    await handle.close();
    return EXIT.ok;
  });
}

async function save(file: string, picture: string, force: boolean): Promise<void> {
  await writeFile(file, picture, { flag: force ? "w" : "wx" }).catch((error: NodeJS.ErrnoException) => {
    throw error.code === "EEXIST" ? existsError(file) : error;
  });
}
