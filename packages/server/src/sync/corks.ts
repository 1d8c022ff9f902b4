/**
 * What is sent to a socket within one turn of the event loop leaves in one piece. Messages are a few bytes
 * each, and handing them to the system one by one costs a busy server more than everything else it does.
 *
 * Invariant: what is held leaves when the turn ends, whatever else happens to the socket.
 */

import type { Duplex } from "node:stream";

export class Corks {
  #held: Duplex[] = [];

  /** To be called before something is written to the socket. */
  hold(socket: Duplex): void {
    if (socket.writableCorked > 0) return;
    socket.cork();
    if (this.#held.push(socket) === 1) setImmediate(() => this.#release());
  }

  #release(): void {
    const held = this.#held;
    this.#held = [];
    for (const socket of held) socket.uncork();
  }
}
