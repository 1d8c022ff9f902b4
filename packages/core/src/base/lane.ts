/**
 * A lane: tasks under one key run one at a time, in the order they came; different keys run side by side.
 *
 * Invariant: a key takes memory only while it has work. A task that rejects does not stop those behind it.
 */

export class Lanes {
  readonly #tails = new Map<string, Promise<unknown>>();

  /** Runs the task after those that came before it under this key, and passes on its outcome. */
  run<T>(key: string, task: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(key);
    const result = before === undefined ? task() : before.then(task, task);
    const tail = result
      .then(
        () => undefined,
        () => undefined,
      )
      .then(() => {
        if (this.#tails.get(key) === tail) this.#tails.delete(key);
      });
    this.#tails.set(key, tail);
    return result;
  }

  /** Resolves when nothing that was queued at the call is left. */
  async idle(): Promise<void> {
    await Promise.all(this.#tails.values());
  }
}
