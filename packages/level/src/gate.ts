/**
 * A gate in front of the database: reads pass freely, until somebody shuts it to close the database and open
 * it again. Then those inside finish, later ones wait, and iterators of before are of no use any more.
 *
 * Invariant: while a shut task runs nobody is inside. When it fails the gate stays shut: every later call
 * rejects with that failure.
 */

export class Gate {
  /** Grows with every opening of the database: what was made in another generation is closed. */
  generation = 0;
  #inside = 0;
  #shut: Promise<void> | undefined;
  #empty: (() => void) | undefined;

  async pass<T>(task: () => Promise<T>): Promise<T> {
    while (this.#shut !== undefined) await this.#shut;
    this.#inside++;
    try {
      return await task();
    } finally {
      this.#inside--;
      if (this.#inside === 0) this.#empty?.();
    }
  }

  /** One at a time. */
  async shut(task: () => Promise<void>): Promise<void> {
    const run = async (): Promise<void> => {
      if (this.#inside > 0) {
        await new Promise<void>((resolve) => {
          this.#empty = resolve;
        });
        this.#empty = undefined;
      }
      await task();
      this.generation++;
      this.#shut = undefined;
    };
    this.#shut = run();
    await this.#shut;
  }
}
