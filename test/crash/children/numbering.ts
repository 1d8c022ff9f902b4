/**
 * A process of many callers, for all that is recorded, killed, cut off or made to fail: each appends
 * numbered events to a document of its own and says `ACK caller number` once each is acknowledged, in one
 * write call. It says `OPEN` first, and `FAILED code` when an append is refused, and ends then.
 *
 * Arguments: backend, location, callers, events of each (0: without end), bytes of padding, "compact" or
 * "append".
 */

import { writeSync } from "node:fs";
import { isCoppiceError } from "coppice";
import { naming } from "../../support/oracle-model.js";
import { type BackendName, openStore } from "../laboratory/stores.js";

const [backend, location, callers, count, padding, mode] = process.argv.slice(2) as string[];
const say = (text: string): void => void writeSync(1, `${text}\n`);
const filler = "x".repeat(Number(padding));

// Without a listener SIGXFSZ ends the process; with one the write fails, as on a full disk.
process.on("SIGXFSZ", () => undefined);

// Whoever started this is gone.
process.stdin.on("end", () => process.exit(4)).resume();
(process.stdin as { unref?: () => void }).unref?.();

const storage = await openStore(backend as BackendName, location!);
say("OPEN");

async function call(caller: number): Promise<void> {
  const id = `names-${caller}`;
  const first = ((await storage.info(id))?.clock ?? 0) + 1;
  for (let number = first; Number(count) === 0 || number < first + Number(count); number++) {
    await storage.append(id, [naming(`${number}${filler}`)]);
    say(`ACK ${caller} ${number}`);
    if (mode === "compact" && number % 40 === 0) await storage.compact(id);
  }
}

try {
  await Promise.all(Array.from({ length: Number(callers) }, (_, caller) => call(caller)));
  await storage.close();
} catch (error) {
  say(`FAILED ${isCoppiceError(error) ? error.code : String(error)}`);
  process.exit(3);
}
