/**
 * A plan: the appends that go into one commit of one document, checked and laid out as batches.
 *
 * Invariant: `add` either takes a member whole or throws and leaves the plan as it was.
 */

import { fromHex, toHex } from "../base/bytes.js";
import { CoppiceError, said } from "../base/errors.js";
import type { Batch, Entry } from "../contract/backend.js";
import { binaryCodec, Framed } from "../contract/codec.js";
import { crc32OfKey, crc32OfSeq } from "../contract/keys.js";
import type { AnyModel } from "../contract/model.js";
import { commitIdTime, newCommitId } from "./commit-id.js";
import { type Context, modelOf } from "./context.js";
import type { AppendRequest, AppendResult } from "./document-log.js";
import { seal } from "./envelope.js";
import { deletedError, displacedError, type Head, incomingError, tokenOf } from "./head.js";
import { emptyMeta, eventsKey, identityOf, type Meta, metaKey, sealMeta } from "./meta.js";
import { encodeEvents } from "./state.js";
import { erasedKey, unsealErased } from "./tombstone.js";

/** An append that waits in the queue of its document; its bytes count as in flight until it is settled. */
export class Member {
  readonly request: AppendRequest;
  /** `env.elapsed`, for an observer that is told how long; 0 without one: a look at the clock costs more. */
  readonly queuedAt: number;
  /** Clock after its last event, in the plan that it was added to. */
  end = 0;
  readonly #inFlight: { bytes: number };
  readonly #bytes: number;
  readonly #resolve: (result: AppendResult) => void;
  readonly #reject: (error: unknown) => void;

  constructor(
    { env, inFlight, observer }: Context,
    request: AppendRequest,
    resolve: (result: AppendResult) => void,
    reject: (error: unknown) => void,
  ) {
    this.request = request;
    this.queuedAt = observer.append === undefined ? 0 : env.elapsed();
    this.#inFlight = inFlight;
    this.#bytes = sizeOf(request.events);
    this.#resolve = resolve;
    this.#reject = reject;
    inFlight.bytes += this.#bytes;
  }

  resolve(result: AppendResult): void {
    this.#inFlight.bytes -= this.#bytes;
    this.#resolve(result);
  }

  reject(error: unknown): void {
    this.#inFlight.bytes -= this.#bytes;
    this.#reject(error);
  }
}

/** Events that become one batch. */
interface Draft {
  readonly commitId: Uint8Array;
  readonly chosen: boolean;
  readonly info: Uint8Array | undefined;
  /** More plain appends may join. */
  readonly open: boolean;
  readonly events: unknown[];
  bytes: number;
}

export class Plan {
  members: readonly Member[] = NONE;
  readonly #context: Context;
  readonly #id: string;
  readonly #head: Head;
  readonly #now: number;
  #drafts: readonly Draft[] = NONE;
  #chosen: Set<string> | undefined;
  #model: AnyModel | undefined;
  #created: Meta | undefined;
  #clock: number;
  #bytes = 0;
  #after: Head | undefined;
  #batch: Batch | undefined;

  constructor(context: Context, id: string, head: Head) {
    this.#context = context;
    this.#id = id;
    this.#head = head;
    this.#now = context.env.now();
    this.#clock = head.clock;
  }

  get empty(): boolean {
    return this.members.length === 0;
  }

  get writesEvents(): boolean {
    return this.#drafts.length > 0;
  }

  /** Clock of the first batch. */
  get clock(): number {
    return this.#head.clock;
  }

  /** The commits that this plan makes, each with its clocks. */
  get commits(): { commitId: Uint8Array; clock: number; end: number }[] {
    const commits: { commitId: Uint8Array; clock: number; end: number }[] = [];
    let clock = this.clock;
    for (const { commitId, events } of this.#drafts) {
      const before = commits.at(-1);
      if (before?.commitId === commitId) before.end += events.length;
      else commits.push({ commitId, clock, end: clock + events.length });
      clock += events.length;
    }
    return commits;
  }

  /** Of the batch that holds the member's last event. */
  commitIdOf(member: Member): Uint8Array {
    const commit = this.commits.find((each) => each.end >= member.end);
    return commit?.commitId ?? fromHex("00".repeat(16));
  }

  /** Handles consider snapshots themselves: they may have the live document at hand. */
  get byHandle(): boolean {
    return this.members.some(({ request }) => request.identity !== undefined && !request.attached);
  }

  get queuedAt(): number {
    return this.members[0]!.queuedAt;
  }

  get headBefore(): Head {
    return this.#head;
  }

  /** The head once `build`'s commit has succeeded. */
  get headAfter(): Head {
    if (this.#after === undefined) throw new TypeError("the plan was not built");
    return this.#after;
  }

  /**
   * False when the commit is full, or already holds the same commit id or the creation of the document; and
   * for an append with `expected` behind others, which must be compared with what is stored, not with what
   * may yet fail.
   */
  takes({ request }: Member): boolean {
    const { commitId, mode = "append", expected } = request;
    if (commitId !== undefined && this.#chosen?.has(toHex(commitId))) return false;
    if (mode !== "append" && this.#created !== undefined) return false;
    if (expected !== undefined && !this.empty) return false;
    return this.#bytes < this.#context.limits.groupBytesMax || this.empty;
  }

  /** Throws a typed error for an append that may not be written; resolves one that is already there. */
  add(member: Member): void {
    const { request } = member;
    const { commitId, mode = "append" } = request;
    const meta = this.#current(request);
    if (commitId !== undefined && !request.fresh) {
      const known = this.#head.commits?.lookup(commitId) ?? "new";
      if (known === "forgotten") throw forgotten(this.#id, commitId);
      if (known !== "new") {
        member.resolve({ clock: known, token: tokenOf(meta, known, this.#head.crc), duplicate: true });
        return;
      }
    }
    if (mode !== "append" && meta !== undefined && meta !== this.#created) {
      const clock = this.#clock;
      member.resolve({ clock, token: tokenOf(meta, clock, this.#head.crc), duplicate: true });
      return;
    }
    this.#assertExpected(request, meta);
    const model = meta === undefined ? request.model : modelOf(this.#context, meta.model, this.#id);
    const sizes = this.#check(request, model);
    this.#model = model;
    if (meta === undefined) this.#created = this.#newMeta(model);
    this.#draft(request, sizes);
    this.#clock += request.events.length;
    member.end = this.#clock;
    this.members = added(this.members, member);
  }

  /** The backend commit, once it was built. */
  get batch(): Batch {
    if (this.#batch === undefined) throw new TypeError("the plan was not built");
    return this.#batch;
  }

  /** Lays out the backend commit. */
  build(): void {
    const head = this.#head;
    head.metaEntry ??= { key: metaKey(this.#id), value: head.metaBytes };
    head.eventsCrc ??= crc32OfKey(["events", this.#id]);
    const after = copyOf(head);
    after.time = Math.max(this.#now, head.time);
    let put: readonly Entry[] = NONE;
    if (this.#created !== undefined) {
      after.meta = this.#created;
      after.metaBytes = sealMeta(this.#id, this.#created, after.time);
      const entry = { key: metaKey(this.#id), value: after.metaBytes };
      after.metaEntry = entry;
      put = [entry];
    }
    const first = eventsKey(this.#id, head.clock);
    for (const draft of this.#drafts) {
      const key = after.clock === head.clock ? first : eventsKey(this.#id, after.clock);
      const payload = payloadOf(this.#model!, this.#id, draft.events);
      if (draft.chosen) after.chosenTime = Math.max(after.chosenTime, commitIdTime(draft.commitId));
      const envelope = {
        count: draft.events.length,
        logBytes: after.logBytes + payload.length,
        time: after.time,
        compressed: false,
        payload,
        batch: {
          commitId: draft.commitId,
          previousCrc: after.crc,
          chosen: draft.chosen,
          chosenTime: after.chosenTime,
          info: draft.info,
          lost: false,
        },
      };
      const { bytes, crc } = seal(key, envelope, crc32OfSeq(head.eventsCrc, after.clock));
      put = added(put, { key, value: bytes });
      after.last = after.clock;
      after.clock += draft.events.length;
      after.logBytes += payload.length;
      after.crc = crc;
    }
    this.#after = after;
    const expect = [head.metaEntry, { key: first, value: undefined }];
    if (this.#created === undefined) {
      this.#batch = { put, expect };
      return;
    }
    const erased = erasedKey(this.#id);
    after.erased = undefined;
    this.#batch = {
      put,
      delete: head.erased === undefined ? [] : [erased],
      expect: [...expect, { key: erased, value: head.erased }],
    };
  }

  /** The head once the commit has succeeded, and knows its ids: the next plan may come at once. */
  committed(): Head {
    const head = this.headAfter;
    if (head.commits !== undefined) {
      for (const { request, end } of this.members)
        if (request.commitId !== undefined) head.commits.add(request.commitId, end);
    }
    return head;
  }

  /** Resolves every member with its own clock. */
  resolve(): void {
    const { meta, crc } = this.headAfter;
    for (const member of this.members)
      member.resolve({ clock: member.end, token: tokenOf(meta, member.end, crc), duplicate: false });
  }

  /** The meta that the request appends to (`undefined`: it creates the document). */
  #current(request: AppendRequest): Meta | undefined {
    const stored = this.#created ?? this.#head.meta;
    if (stored?.incoming !== undefined) throw incomingError(this.#id);
    const meta = stored?.deleted === undefined ? stored : undefined;
    if (meta === undefined && stored !== undefined && request.mode !== "recreate")
      throw deletedError(this.#id);
    const identity = request.identity?.();
    if (identity !== undefined && (meta === undefined || identity !== identityOf(meta)))
      throw meta === undefined ? deletedError(this.#id) : displacedError(this.#id);
    return meta;
  }

  /** Not asked of a repeated append that is there already: it has itself moved the document on. */
  #assertExpected(request: AppendRequest, meta: Meta | undefined): void {
    if (request.expected === undefined) return;
    const token = tokenOf(meta, this.#clock, this.#head.crc);
    if (request.expected !== token) {
      throw new CoppiceError(
        "HEAD_CONFLICT",
        "the document has changed since the expected state; nothing was written",
        {
          details: { id: this.#id, expected: request.expected, actual: token },
        },
      );
    }
  }

  #check(request: AppendRequest, model: AnyModel): number[] {
    const { limits } = this.#context;
    const { events } = request;
    if (!request.split && events.length > limits.batchEventsMax) {
      throw tooLarge("BATCH_TOO_LARGE", this.#id, "batchEventsMax", limits.batchEventsMax, events.length);
    }
    let total = 0;
    // Not `map`, which passes by what is missing in a list.
    const sizes = new Array<number>(events.length);
    for (let index = 0; index < events.length; index++) {
      const size = checkEvent(model, events[index], this.#id);
      if (size > limits.eventBytesMax) {
        throw tooLarge("EVENT_TOO_LARGE", this.#id, "eventBytesMax", limits.eventBytesMax, size);
      }
      total += size;
      sizes[index] = size;
    }
    const max = request.split ? this.#context.guard.traits.commitBytesMax / 2 : limits.batchBytesMax;
    if (total > max) {
      throw tooLarge(
        "BATCH_TOO_LARGE",
        this.#id,
        request.split ? "commitBytesMax" : "batchBytesMax",
        max,
        total,
      );
    }
    try {
      model.check?.(events);
    } catch (error) {
      throw new CoppiceError(
        "EVENT_INVALID",
        `the ${model.name} model refuses the events${said(error)}; nothing was written`,
        {
          cause: error,
          details: { id: this.#id },
        },
      );
    }
    return sizes;
  }

  #draft(request: AppendRequest, sizes: readonly number[]): void {
    const { limits, env } = this.#context;
    const plain = request.commitId === undefined && request.info === undefined;
    let { commitId } = request;
    if (commitId !== undefined) {
      this.#chosen ??= new Set();
      this.#chosen.add(toHex(commitId));
    }
    let draft = this.#drafts.at(-1);
    if (!plain || !draft?.open) draft = undefined;
    for (let index = 0; index < sizes.length; index++) {
      const event = request.events[index];
      const size = sizes[index]!;
      this.#bytes += size;
      const full =
        draft !== undefined &&
        (draft.bytes + size > limits.batchBytesMax || draft.events.length >= limits.batchEventsMax);
      if (draft !== undefined && !full) {
        draft.events.push(event);
        draft.bytes += size;
        continue;
      }
      commitId ??= newCommitId(env, this.#now);
      draft = {
        commitId,
        chosen: request.commitId !== undefined,
        info: request.info,
        open: plain,
        events: [event],
        bytes: size,
      };
      this.#drafts = added(this.#drafts, draft);
    }
  }

  #newMeta(model: AnyModel): Meta {
    const { env } = this.#context;
    const { meta, clock, erased } = this.#head;
    // Beside a tombstone the record has a clock of its own: what was deleted after it was not erased.
    const erasure = erased && unsealErased(erasedKey(this.#id), erased).clock;
    return {
      ...emptyMeta(env, model.name, this.#now),
      base: clock,
      oldest: clock,
      commitFloor: meta?.commitFloor ?? 0,
      erased: erasure === undefined ? meta?.erased : Math.max(erasure, meta?.erased ?? -1),
    };
  }
}

/** Field by field: an engine takes several times as long to copy what it is not told. */
function copyOf(head: Head): Head {
  const { meta, metaBytes, metaEntry, eventsCrc, clock, logBytes, time } = head;
  const { crc, chosenTime, last, erased, commits } = head;
  return {
    meta,
    metaBytes,
    metaEntry,
    eventsCrc,
    clock,
    logBytes,
    time,
    crc,
    chosenTime,
    last,
    erased,
    commits,
  };
}

function payloadOf(model: AnyModel, id: string, events: readonly unknown[]): Uint8Array | Framed {
  if (model.codec === binaryCodec) return new Framed(events as readonly Uint8Array[]);
  return encodeEvents(model, id, events);
}

const NONE: readonly never[] = [];

/**
 * The list with one more. A list begins with its first element, since pushing to an empty one makes room for
 * seventeen, and in most commits there is one.
 */
function added<T>(list: readonly T[], item: T): readonly T[] {
  if (list.length === 0) return [item];
  (list as T[]).push(item);
  return list;
}

function sizeOf(events: readonly unknown[]): number {
  let bytes = 0;
  for (const event of events) bytes += event instanceof Uint8Array ? event.length + 8 : 256;
  return bytes;
}

function checkEvent(model: AnyModel, event: unknown, id: string): number {
  let size: number;
  try {
    size = model.codec.size(event);
  } catch (error) {
    throw new CoppiceError("EVENT_INVALID", `not an event of the ${model.name} model${said(error)}`, {
      cause: error,
      details: { id },
    });
  }
  if (!Number.isSafeInteger(size))
    throw new CoppiceError("EVENT_INVALID", `not an event of the ${model.name} model`, { details: { id } });
  if (size === 0) throw new CoppiceError("EVENT_INVALID", "an event must not be empty", { details: { id } });
  return size;
}

function tooLarge(
  code: "EVENT_TOO_LARGE" | "BATCH_TOO_LARGE",
  id: string,
  limit: string,
  max: number,
  actual: number,
) {
  return new CoppiceError(code, "over the limit; nothing was written", {
    details: { id, limit, max, actual },
  });
}

function forgotten(id: string, commitId: Uint8Array): CoppiceError {
  return new CoppiceError(
    "OUTCOME_UNKNOWN",
    "the commit id is older than the remembered ones: the events may be there; nothing was written now",
    { details: { id, commitId: toHex(commitId) } },
  );
}
