/** For tests that hold up, fail or watch single calls of a backend. */

import type { Backend, BackendFactory } from "coppice";

/** The backend with some of its methods replaced. */
export function changed(
  inner: BackendFactory,
  change: (opened: Backend) => Partial<Backend>,
): BackendFactory {
  return {
    name: "changed",
    open: async (env) => {
      const opened = await inner.open(env);
      return {
        traits: opened.traits,
        get: (key) => opened.get(key),
        scan: (range, options) => opened.scan(range, options),
        commit: (batch) => opened.commit(batch),
        reclaim: () => opened.reclaim(),
        close: () => opened.close(),
        ...change(opened),
      };
    },
  };
}

/** A backend that runs something once behind the first page of a log that is read. */
export function behindFirstPage(inner: BackendFactory) {
  const it: { run?: (() => Promise<unknown>) | undefined } = {};
  const backend = changed(inner, (opened) => ({
    async *scan(range, options) {
      for await (const page of opened.scan(range, options)) {
        yield page;
        const { run } = it;
        if (run === undefined || range.space !== "events" || options?.limit !== undefined) continue;
        it.run = undefined;
        await run();
      }
    },
  }));
  return { it, backend };
}
