/**
 * Reads what others have stored behind a live document, for `handle.refresh`.
 *
 * It applies nothing: which of the events the document has already, the handle knows.
 */

import type { AnyModel } from "../contract/model.js";
import { readableFrom, scanLog } from "./archive.js";
import type { Context } from "./context.js";
import { deletedError, displacedError } from "./head.js";
import { identityOf, type Meta } from "./meta.js";
import { assertNotDeleted, trimmed, withRestarts } from "./reader.js";
import { decodeBatch } from "./state.js";

export interface Pulled {
  readonly found: readonly { readonly clock: number; readonly event: unknown }[];
  /** Clocks of events that a repair set aside. */
  readonly lost: readonly number[];
  readonly end: number;
  readonly meta: Meta;
}

interface Place {
  readonly id: string;
  readonly model: AnyModel;
  /** `identityOf` the document. */
  readonly identity: string;
  /** Asked anew whenever the reading begins again. */
  readonly from: () => number;
  readonly isOwn: (clock: number) => boolean;
}

/** All that is stored from there on but for own events. Throws `TRIMMED` and `DELETED`. */
export function pullEvents(context: Context, place: Place): Promise<Pulled> {
  const { id, model, identity, isOwn } = place;
  return withRestarts(
    () => context.guard,
    id,
    async (meta, metaBytes) => {
      if (meta === undefined || meta.deleted !== undefined) throw deletedError(id);
      if (identityOf(meta) !== identity) throw displacedError(id);
      const from = place.from();
      if (from < readableFrom(meta)) throw trimmed(id, from, readableFrom(meta));
      const found: { clock: number; event: unknown }[] = [];
      const lost: number[] = [];
      let end = from;
      for await (const batch of scanLog(context.guard, id, meta, { from })) {
        if (batch.header.lost) for (let clock = batch.clock; clock < batch.end; clock++) lost.push(clock);
        const events = batch.header.lost ? [] : decodeBatch(model, id, batch);
        for (const [index, event] of events.entries()) {
          const clock = batch.clock + index;
          if (clock >= from && !isOwn(clock)) found.push({ clock, event });
        }
        end = batch.end;
      }
      await assertNotDeleted(context.guard, id, meta, metaBytes);
      return { found, lost, end, meta };
    },
  );
}
