/**
 * Awareness of one document: which states the clients announced, and who brought each.
 *
 * It speaks the bytes of y-protocols and holds no clock of its own: a state stays until its connection ends
 * or takes it back. States are not authenticated: who may connect may announce any client id, as everywhere
 * in the world of Yjs. They are never stored.
 *
 * Invariants: the number and the bytes of states that a connection brings are bounded; the clock of a state
 * that is gone is remembered for a while, so that an echo of it does not bring it back.
 */

import { Reader, Writer } from "coppice";

interface State {
  readonly clock: number;
  readonly json: Uint8Array;
  /** The connection that announced it last. */
  readonly owner: object;
}

interface Announced {
  readonly client: number;
  readonly clock: number;
  readonly json: Uint8Array;
}

const NULL_JSON = new TextEncoder().encode("null");
const GONE_MAX = 1024;

export class AwarenessStates {
  readonly #states = new Map<number, State>();
  readonly #gone = new Map<number, number>();

  get size(): number {
    return this.#states.size;
  }

  /**
   * Takes a client's announcement. Returns the bytes to pass on to everybody, the sender included (clients
   * take its echo for a sign of life); `undefined` when nothing is new. Throws a `RangeError` for bytes that
   * are none, or over a limit; then nothing was taken.
   */
  receive(
    bytes: Uint8Array,
    owner: object,
    limits: { readonly awarenessStatesMax: number; readonly awarenessStateBytesMax: number },
  ): Uint8Array | undefined {
    const announced = parse(bytes, limits.awarenessStateBytesMax);
    const news = announced.filter((entry) => this.#isNew(entry));
    let owned = 0;
    for (const state of this.#states.values()) if (state.owner === owner) owned++;
    for (const { client, json } of news) {
      if (isNull(json) || this.#states.get(client)?.owner === owner) continue;
      if (++owned > limits.awarenessStatesMax) throw new RangeError("too many awareness states");
    }
    for (const { client, clock, json } of news) {
      if (isNull(json)) this.#remove(client, clock);
      else {
        this.#gone.delete(client);
        this.#states.set(client, { clock, json: new Uint8Array(json), owner });
      }
    }
    return news.length === 0 ? undefined : encode(news);
  }

  /**
   * Forgets what a connection brought. Returns the bytes that tell the others; `undefined`: nothing to tell.
   */
  leave(owner: object): Uint8Array | undefined {
    const left: Announced[] = [];
    for (const [client, state] of this.#states) {
      if (state.owner !== owner) continue;
      left.push({ client, clock: state.clock + 1, json: NULL_JSON });
    }
    for (const { client, clock } of left) this.#remove(client, clock);
    return left.length === 0 ? undefined : encode(left);
  }

  /** All states, for somebody who comes; `undefined` when there are none. */
  all(): Uint8Array | undefined {
    if (this.#states.size === 0) return undefined;
    return encode([...this.#states].map(([client, { clock, json }]) => ({ client, clock, json })));
  }

  #isNew({ client, clock, json }: Announced): boolean {
    const known = this.#states.get(client);
    if (known !== undefined) return clock > known.clock || (clock === known.clock && isNull(json));
    return !isNull(json) && clock > (this.#gone.get(client) ?? -1);
  }

  #remove(client: number, clock: number): void {
    this.#states.delete(client);
    this.#gone.delete(client);
    this.#gone.set(client, clock);
    if (this.#gone.size <= GONE_MAX) return;
    for (const oldest of this.#gone.keys()) {
      this.#gone.delete(oldest);
      return;
    }
  }
}

function parse(bytes: Uint8Array, stateBytesMax: number): Announced[] {
  const reader = new Reader(bytes);
  const count = reader.varint();
  const announced: Announced[] = [];
  for (let index = 0; index < count; index++) {
    const entry = { client: reader.varint(), clock: reader.varint(), json: reader.sized() };
    if (entry.json.length > stateBytesMax) throw new RangeError("an awareness state is too large");
    assertJson(entry.json);
    announced.push(entry);
  }
  if (reader.left > 0) throw new RangeError("an awareness message has bytes after its end");
  return announced;
}

/** Clients parse what is passed on, and many throw where they do it. */
function assertJson(bytes: Uint8Array): void {
  try {
    JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new RangeError("an awareness state is no JSON", { cause: error });
  }
}

function encode(entries: readonly Announced[]): Uint8Array {
  const writer = new Writer().varint(entries.length);
  for (const { client, clock, json } of entries) writer.varint(client).varint(clock).sized(json);
  return writer.finish();
}

function isNull(json: Uint8Array): boolean {
  return json.length === 4 && json.every((byte, index) => byte === NULL_JSON[index]);
}
