/** Waiting in tests for what other processes and sockets do: by looking, never by a length of time. */

/** Resolves when the condition holds; rejects, naming it, when it does not hold for `msMax`. */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  msMax = 60_000,
): Promise<void> {
  const started = Date.now();
  while (!(await condition())) {
    if (Date.now() - started > msMax) throw new Error(`waited ${msMax} ms in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
