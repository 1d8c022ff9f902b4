/**
 * The order in which calls about documents take effect.
 *
 * Code written for y-leveldb drops promises and relies on a call seeing those before it. y-leveldb has one
 * queue for everything; here appends of one document go on together (they share commits), whatever reads
 * waits for what was called before about the same document, and documents do not wait for each other.
 */

interface Lane {
  /** The last call that must run alone; all later ones wait for it. */
  alone: Promise<unknown>;
  readonly running: Set<Promise<unknown>>;
}

export class CallOrder {
  readonly #start: Promise<unknown>;
  readonly #lanes = new Map<string, Lane>();

  /** Nothing runs before `start` resolves; when it rejects, every call does. */
  constructor(start: Promise<unknown>) {
    this.#start = start;
  }

  /** Runs in the order of the calls, beside other such calls. */
  together<T>(name: string, task: () => Promise<T>): Promise<T> {
    const lane = this.#lane(name);
    return this.#run(name, lane, lane.alone.then(task));
  }

  /** Runs when all earlier calls of this name have ended; later ones do not wait for it. */
  after<T>(name: string, task: () => Promise<T>): Promise<T> {
    const lane = this.#lane(name);
    const earlier = [lane.alone, ...lane.running];
    return this.#start.then(() => Promise.allSettled(earlier)).then(task);
  }

  /** Runs when all earlier calls of this name have ended, and before all later ones. */
  alone<T>(name: string, task: () => Promise<T>): Promise<T> {
    const lane = this.#lane(name);
    const result = this.after(name, task);
    lane.alone = result.then(
      () => undefined,
      () => this.#start,
    );
    lane.alone.catch(() => undefined);
    return this.#run(name, lane, result);
  }

  /** Runs when all earlier calls, of whatever name, have ended. */
  afterAll<T>(task: () => Promise<T>): Promise<T> {
    const earlier = [...this.#lanes.values()].flatMap(({ alone, running }) => [alone, ...running]);
    return this.#start.then(() => Promise.allSettled(earlier)).then(task);
  }

  #lane(name: string): Lane {
    const known = this.#lanes.get(name);
    if (known !== undefined) return known;
    const lane: Lane = { alone: this.#start, running: new Set() };
    this.#lanes.set(name, lane);
    return lane;
  }

  #run<T>(name: string, lane: Lane, result: Promise<T>): Promise<T> {
    lane.running.add(result);
    const end = () => {
      lane.running.delete(result);
      if (lane.running.size === 0 && this.#lanes.get(name) === lane) this.#lanes.delete(name);
    };
    result.then(end, end);
    return result;
  }
}
