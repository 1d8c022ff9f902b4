/**
 * What a Yjs update says of its place among others. It names no parents: what is known is that a struct came
 * after its neighbours at insertion and its parent, and after every earlier struct of its client, and that
 * deletions came after what they delete. What else its author had seen, nothing tells.
 *
 * Points are clocks, named by client. An update that only deletes makes none, and does not say whose it is.
 */

import type { EventLinks } from "coppice";
import { scanUpdate } from "./scanner.js";

/** Throws a `TypeError` for bytes that are no update. */
export function linksOf(update: Uint8Array): EventLinks {
  const makes: { name: string; from: number; to: number }[] = [];
  // A clock came after all earlier ones of its client: the newest that is built on says it all.
  const newest = new Map<number, number>();
  let author: { client: number; clocks: number } | undefined;
  const note = (client: number, clock: number) => {
    if (clock > (newest.get(client) ?? -1)) newest.set(client, clock);
  };
  scanUpdate(update, {
    run: (client, clock, end) => {
      makes.push({ name: String(client), from: clock, to: end });
      if (author === undefined || end - clock > author.clocks) author = { client, clocks: end - clock };
    },
    deletion: (client, _clock, end) => note(client, end - 1),
    reference: note,
  });
  const after = [...newest].map(([client, clock]) => ({ name: String(client), at: clock }));
  return { replica: author === undefined ? "" : String(author.client), makes, after, complete: false };
}
