/**
 * Two people who type into one document at once, as Yjs updates: the recording friendsforever where it is to be
 * had (COPPICE_TRACES, or beside the repository), else two seeded typists.
 *
 * Each step names what its author had seen, so that it can be typed again when exactly that, or more, is there:
 * concurrent stays concurrent, and no step builds on what its author lacks.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import { seededRandom } from "coppice/testing";
import * as Y from "yjs";

export interface Step {
  /** 0 or 1. Its Yjs client id is one more. */
  readonly author: number;
  readonly update: Uint8Array;
  /** Yjs clocks that its author had seen. */
  readonly seen: ReadonlyMap<number, number>;
}

export interface Conversation {
  readonly source: string;
  readonly steps: readonly Step[];
  /** What both read in the end. */
  readonly text: string;
}

export const TEXT = "text";

type Patch = readonly [position: number, deleted: number, inserted: string];
interface Recording {
  readonly txns: readonly {
    readonly parents: readonly number[];
    readonly agent: number;
    readonly patches: readonly Patch[];
  }[];
}

/** The first `count` steps. */
export function openConversation(count: number): Conversation {
  const beside = fileURLToPath(new URL("../../../shared/traces", import.meta.url));
  const path = join(process.env.COPPICE_TRACES || beside, "friendsforever.json.gz");
  const typists = new Typists();
  if (existsSync(path)) {
    const { txns } = JSON.parse(gunzipSync(readFileSync(path)).toString()) as Recording;
    for (const { parents, agent, patches } of txns.slice(0, count)) typists.type(agent, parents, patches);
    return typists.conversation("friendsforever");
  }
  const random = seededRandom(20_261_120);
  for (let n = 0; n < count; n++) {
    const agent = random.int(2);
    // Now and then somebody looks up and sees all that was written.
    const parents = random.int(5) === 0 && n > 0 ? Array.from({ length: n }, (_, index) => index) : [];
    typists.type(agent, parents, (length) => {
      const at = random.int(length + 1);
      return random.int(4) === 0 && at < length ? [at, 1, ""] : [at, 0, `${n % 10}`];
    });
  }
  return typists.conversation("two seeded typists");
}

class Typists {
  readonly #docs = [1, 2].map((clientID) => Object.assign(new Y.Doc(), { clientID }));
  readonly #known = [new Set<number>(), new Set<number>()];
  readonly #parents: (readonly number[])[] = [];
  readonly #steps: Step[] = [];

  type(
    author: number,
    parents: readonly number[],
    patches: readonly Patch[] | ((length: number) => Patch),
  ): void {
    const doc = this.#docs[author]!;
    this.#show(author, parents);
    const seen = new Map(
      [...doc.store.clients.keys()].map((client) => [client, Y.getState(doc.store, client)]),
    );
    const text = doc.getText(TEXT);
    const before = Y.encodeStateVector(doc);
    const updates: Uint8Array[] = [];
    const capture = (update: Uint8Array) => void updates.push(update);
    doc.on("update", capture);
    doc.transact(() => {
      for (const [position, deleted, inserted] of typeof patches === "function"
        ? [patches(text.length)]
        : patches) {
        if (deleted > 0) text.delete(position, deleted);
        if (inserted !== "") text.insert(position, inserted);
      }
    });
    doc.off("update", capture);
    this.#known[author]!.add(this.#steps.length);
    this.#parents.push(parents);
    this.#steps.push({ author, update: updates[0] ?? Y.encodeStateAsUpdate(doc, before), seen });
  }

  conversation(source: string): Conversation {
    const doc = new Y.Doc();
    doc.transact(() => {
      for (const { update } of this.#steps) Y.applyUpdate(doc, update);
    });
    const text = doc.getText(TEXT).toString();
    return { source: `${source}, ${this.#steps.length} edits`, steps: this.#steps, text };
  }

  #show(author: number, parents: readonly number[]): void {
    const waiting = [...parents];
    const order: number[] = [];
    for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
      if (this.#known[author]!.has(next)) continue;
      this.#known[author]!.add(next);
      order.push(next);
      waiting.push(...this.#parents[next]!);
    }
    for (const next of order.sort((a, b) => a - b)) {
      Y.applyUpdate(this.#docs[author]!, this.#steps[next]!.update);
    }
  }
}
