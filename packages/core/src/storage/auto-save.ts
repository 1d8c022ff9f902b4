/**
 * When a handle with `autoSave` saves by itself, and who hears of it when that failed.
 *
 * A failure does not repeat the save: the next edit does, a recovery, `flush` or `close`.
 */

import type { HandleOwner } from "./handle.js";
import { unsavedError } from "./handles.js";
import { report } from "./observer.js";
import type { HandleOptions } from "./options.js";

export class AutoSave {
  readonly #owner: HandleOwner;
  readonly #id: string;
  readonly #onError: HandleOptions["onError"];
  readonly #save: () => Promise<unknown>;
  #scheduled = false;

  constructor(owner: HandleOwner, id: string, { onError }: HandleOptions, save: () => Promise<unknown>) {
    this.#owner = owner;
    this.#id = id;
    this.#onError = onError;
    this.#save = save;
  }

  /** In a turn of its own, so that edits that come together are saved together. */
  soon(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    const { env } = this.#owner.context;
    const { abandoned } = this.#owner.handles;
    env.turn(() => {
      this.#scheduled = false;
      // A storage that closes or recovers saves by itself what was unsaved before.
      if (!abandoned && !this.#owner.isReady()) return;
      this.#save().catch((error: unknown) => report(env, () => this.#failed(error)));
    });
  }

  #failed(error: unknown): void {
    if (this.#onError !== undefined) this.#onError(error);
    else if (!this.#owner.handles.abandoned) {
      throw unsavedError([{ id: this.#id, error }], "autoSave failed, and there is no onError to be told");
    }
  }
}
