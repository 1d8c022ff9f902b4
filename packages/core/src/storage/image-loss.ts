/**
 * Whether the image of a past version keeps all that a load of that version shows.
 *
 * A load may begin with the snapshot of a tag, or with one that the image leaves behind, and so show events
 * whose stored bytes were lost below it. The image of the version is replayed from something older, and would
 * be without them: then there is none, instead of one that silently has less.
 *
 * Invariant: it changes nothing, and reads the log only where a load would begin later than the image.
 */

import { CoppiceError } from "../base/errors.js";
import { scanLog } from "./archive.js";
import type { Context } from "./context.js";
import type { Meta } from "./meta.js";
import { readSnapshotRecord } from "./reader.js";
import { basesOf, readState } from "./state.js";
import { available } from "./tag-index.js";

/** `past` is what the image says of the version at `clock`. Throws `TRIMMED`; `Moved` for `withRestarts`. */
export async function assertKeepsWhatLoads(
  context: Context,
  id: string,
  stored: { readonly meta: Meta; readonly metaBytes: Uint8Array },
  past: Meta,
  clock: number,
): Promise<void> {
  const { guard } = context;
  const { meta, metaBytes } = stored;
  const from = past.snapshot?.clock ?? past.base;
  const [newest] = await basesOf(context, id, meta, { at: clock, tags: true });
  if (newest === undefined || newest.ref.clock <= from) return;
  const lost = past.snapshot ? [...(await readSnapshotRecord(guard, id, past.snapshot)).lost] : [];
  for await (const batch of scanLog(guard, id, meta, { from, to: newest.ref.clock })) {
    const end = Math.min(batch.end, newest.ref.clock);
    if (batch.header.lost) for (let at = Math.max(batch.clock, from); at < end; at++) lost.push(at);
  }
  if (lost.length === 0) return;
  const state = await readState(context, id, meta, metaBytes, { at: clock, tags: true, recordOnly: true });
  const missing = new Set([...(state.base?.record.lost ?? []), ...state.lost]);
  const shown = lost.filter((at) => !missing.has(at));
  if (shown.length === 0) return;
  throw new CoppiceError(
    "TRIMMED",
    "events before that clock are lost: a load shows them by a snapshot, a copy of that version would not",
    { details: { id, clock, lost: shown.slice(0, 16), ...(await available(context, id)) } },
  );
}
