/**
 * The process whose memory is measured: it appends one event after the other to many documents, in passes, 64 in
 * flight, and sends what it sampled. It does nothing else, so its memory is that of one storage.
 */
import { answer } from "./child.mjs";
import { inFlight, openCoppice } from "./stores.mjs";

const WIDTH = 64;
const SAMPLES_EACH_PASS = 10;

answer(run);

async function run({ location, documentCount, passes, updates }) {
  const events = updates.map((text) => new Uint8Array(Buffer.from(text, "base64")));
  const storage = await openCoppice(location);
  const samples = [];
  const slice = documentCount / SAMPLES_EACH_PASS;
  for (let pass = 0; pass < passes; pass++) {
    for (let from = 0; from < documentCount; from += slice) {
      await inFlight(WIDTH, slice, (n) => storage.append(`doc-${from + n}`, [events[pass]]));
      const documents = pass === 0 ? from + slice : documentCount;
      samples.push({ appends: pass * documentCount + from + slice, documents, ...memory() });
    }
  }
  await storage.close();
  return { samples };
}

function memory() {
  const rssBytes = process.memoryUsage.rss();
  globalThis.gc();
  return { heapBytes: process.memoryUsage().heapUsed, rssBytes };
}
