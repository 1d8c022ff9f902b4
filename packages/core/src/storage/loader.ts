/**
 * Loading: stored state → live document.
 *
 * Invariants: reading changes nothing; all events are applied in one go; a snapshot that does not restore is
 * passed over only for something older that makes up for it.
 */

import type { AnyModel } from "../contract/model.js";
import { soundApplied } from "../contract/model-results.js";
import { isWhole } from "./archive.js";
import { type Context, observe } from "./context.js";
import { damaged } from "./envelope.js";
import type { Meta } from "./meta.js";
import { clockAt, type Moment } from "./moments.js";
import { withRestarts } from "./reader.js";
import { stageKey } from "./stages.js";
import { readState, type State } from "./state.js";

/** An event in the log that the document does not show. */
export interface HeldEvent {
  /** Clock before the event; `undefined` while it is not stored yet. */
  readonly clock: number | undefined;
  /** `undefined` when its bytes were damaged and set aside. */
  readonly event: unknown;
  /** Why the model refused it, or that its bytes are lost; `undefined`: something it builds on is missing. */
  readonly reason: string | undefined;
}

export interface Loaded {
  readonly meta: Meta;
  readonly model: AnyModel;
  readonly doc: unknown;
  readonly clock: number;
  readonly held: readonly HeldEvent[];
}

export const LOST_REASON = "its stored bytes were damaged and set aside by a repair";

/**
 * `undefined` when the document does not exist, did not then, or was deleted. See `readState` for what it
 * throws.
 */
export async function loadDocument(
  context: Context,
  id: string,
  moment?: Moment,
): Promise<Loaded | undefined> {
  const started = context.env.elapsed();
  const exclude = new Set<number>();
  for (;;) {
    const state = await withRestarts(
      () => context.guard,
      id,
      async (meta, metaBytes) => {
        if (meta === undefined || meta.deleted !== undefined) return undefined;
        const at = moment === undefined ? undefined : await clockAt(context, id, meta, moment);
        if (moment !== undefined && at === undefined) return undefined;
        return readState(context, id, meta, metaBytes!, { at, exclude, tags: true });
      },
    );
    if (state === undefined) return undefined;
    let doc: unknown;
    try {
      doc = state.snapshot === undefined ? state.model.create() : state.model.restore(state.snapshot);
    } catch (error) {
      const { ref, space } = state.base!;
      if (exclude.has(ref.stage)) throw error;
      exclude.add(ref.stage);
      const failure = damaged(stageKey(space, id, ref, 0), "the model cannot restore the snapshot", error);
      observe(context, (observer) => observer.damage?.({ id, error: failure, recovered: false }));
      const { meta } = state;
      if (!isWhole(meta) && ref === meta.previous) throw failure;
      continue;
    }
    const loaded = replay(context, id, state, doc);
    observe(context, (observer) =>
      observer.load?.({
        id,
        clock: state.end,
        events: state.events.length,
        snapshotBytes: state.base?.ref.storedBytes ?? 0,
        durationMs: context.env.elapsed() - started,
      }),
    );
    return loaded;
  }
}

function replay(context: Context, id: string, state: State, doc: unknown): Loaded {
  const { model, events, clocks } = state;
  const count = events.length;
  const applied = count === 0 ? undefined : soundApplied(model, model.apply(doc, events), count);
  const held: HeldEvent[] = [];
  for (const index of applied?.held ?? []) {
    held.push({ clock: clocks[index], event: events[index], reason: undefined });
  }
  for (const { index, reason } of applied?.refused ?? []) {
    held.push({ clock: clocks[index], event: events[index], reason });
  }
  for (const clock of [...(state.base?.record.lost ?? []), ...state.lost]) {
    held.push({ clock, event: undefined, reason: LOST_REASON });
  }
  for (const { clock, reason } of held) {
    observe(context, (observer) =>
      observer.held?.(reason === undefined ? { id, clock } : { id, clock, reason }),
    );
  }
  return { meta: state.meta, model, doc: applied?.doc ?? doc, clock: state.end, held };
}
