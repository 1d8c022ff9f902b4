/**
 * Folding in a thread, so that a long fold or verification does not hold up appends and loads.
 *
 * Work that is small, models that name no worker module, places without threads, and modules that a thread
 * cannot import (TypeScript sources, bundles) run on the calling thread instead: slower for others, never
 * wrong.
 *
 * Invariants: one thread, started at the first large fold, ended by `close`; requests are answered in order.
 */

import type { Env, Thread } from "../base/env.js";
import type { AnyModel, Folded } from "../contract/model.js";
import { type Folder, inlineFolder, ThreadDied } from "./folding.js";

/** Below so many bytes starting a thread and copying to it costs more than the work. */
const THREAD_BYTES_MIN = 64 * 1024;

const SOURCE = `
const { parentPort } = require("node:worker_threads");
const models = new Map();
async function modelOf(worker) {
  const name = worker.module + "#" + worker.export;
  if (!models.has(name)) {
    const model = (await import(worker.module))[worker.export](worker.options);
    await model.ready?.();
    models.set(name, model);
  }
  return models.get(name);
}
parentPort.on("message", async ({ number, task, worker, snapshot, payload }) => {
  let model;
  try {
    model = await modelOf(worker);
  } catch (error) {
    parentPort.postMessage({ number, unloadable: String(error) });
    return;
  }
  try {
    if (task === "fold") {
      const events = payload === undefined ? [] : model.codec.decode(payload);
      parentPort.postMessage({ number, value: model.fold(snapshot, events) });
      return;
    }
    const doc = model.restore(snapshot);
    parentPort.postMessage({ number, value: model.version(doc) });
    model.dispose?.(doc);
  } catch (error) {
    parentPort.postMessage({ number, error: String(error?.message ?? error) });
  }
});
`;

interface Answer {
  readonly number: number;
  readonly value?: unknown;
  readonly error?: string;
  readonly unloadable?: string;
}

interface Request {
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: unknown) => void;
}

export class ThreadFolder implements Folder {
  readonly #env: Env;
  readonly #unloadable = new Set<string>();
  readonly #requests = new Map<number, Request>();
  #thread: Thread | undefined;
  #number = 0;

  constructor(env: Env) {
    this.#env = env;
  }

  async fold(model: AnyModel, snapshot: Uint8Array | undefined, events: readonly unknown[]): Promise<Folded> {
    const bytes = events.reduce<number>((sum, event) => sum + model.codec.size(event), snapshot?.length ?? 0);
    if (!this.#worthwhile(model, bytes)) return inlineFolder.fold(model, snapshot, events);
    const payload = events.length === 0 ? undefined : model.codec.encode(events);
    const value = await this.#ask(model, {
      task: "fold",
      snapshot: owned(snapshot),
      payload: owned(payload),
    });
    return value === undefined ? inlineFolder.fold(model, snapshot, events) : (value as Folded);
  }

  async versionOf(model: AnyModel, snapshot: Uint8Array): Promise<Uint8Array> {
    if (!this.#worthwhile(model, snapshot.length)) return inlineFolder.versionOf(model, snapshot);
    const value = await this.#ask(model, { task: "version", snapshot: owned(snapshot) });
    return value === undefined ? inlineFolder.versionOf(model, snapshot) : (value as Uint8Array);
  }

  async close(): Promise<void> {
    const thread = this.#thread;
    this.#thread = undefined;
    await thread?.stop();
  }

  #worthwhile(model: AnyModel, bytes: number): boolean {
    if (bytes < THREAD_BYTES_MIN || model.worker === undefined || this.#env.thread === undefined)
      return false;
    return !this.#unloadable.has(model.name);
  }

  /** `undefined` when the thread cannot have this model. */
  async #ask(model: AnyModel, task: object): Promise<unknown> {
    this.#thread ??= this.#start();
    const thread = this.#thread;
    if (thread === undefined) return undefined;
    const number = this.#number++;
    const answer = await new Promise<Answer>((resolve, reject) => {
      this.#requests.set(number, { resolve, reject });
      thread.send({ number, worker: model.worker, ...task });
    });
    if (answer.unloadable !== undefined) {
      this.#unloadable.add(model.name);
      return undefined;
    }
    if (answer.error !== undefined) throw new TypeError(answer.error);
    return answer.value;
  }

  #start(): Thread | undefined {
    const thread = this.#env.thread?.(SOURCE);
    let isDead = false;
    thread?.receive((message, error) => {
      if (error !== undefined) {
        // One that dies says so first, and then that it has ended: the next one may have begun by then.
        if (isDead) return;
        isDead = true;
        this.#thread = undefined;
        const failure = new ThreadDied(error);
        for (const request of this.#requests.values()) request.reject(failure);
        this.#requests.clear();
        return;
      }
      const answer = message as Answer;
      const request = this.#requests.get(answer.number);
      this.#requests.delete(answer.number);
      request?.resolve(answer);
    });
    return thread;
  }
}

/** A view would drag its whole buffer along when it is posted. */
function owned(bytes: Uint8Array | undefined): Uint8Array | undefined {
  return bytes === undefined || bytes.byteLength === bytes.buffer.byteLength ? bytes : new Uint8Array(bytes);
}
