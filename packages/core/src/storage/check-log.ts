/**
 * The log of one document under check: what is wrong with it, and the edits that would make it whole.
 *
 * The walk goes over all retained batches once. It keeps apart what a batch must name to follow what is
 * stored before it (that decides what is a problem), and what it must name once the edits so far are made
 * (that decides what is sealed anew). So one wrong batch is one problem, even when every batch after it has
 * to be sealed again.
 *
 * A batch that is damaged or missing gives way to a lost batch: no events, the same count, and the CRC that
 * the batch after it names. Clocks stay, and nothing behind it changes.
 *
 * Invariants: nothing is written here. An intact batch keeps its events, whatever else is edited. A missing
 * clock is filled only up to evidence that it existed: an intact batch, a snapshot or a tag behind it, or a
 * damaged one close by.
 */

import { Writer } from "../base/bytes.js";
import { isCoppiceError } from "../base/errors.js";
import type { Key } from "../contract/backend.js";
import type { AnyModel } from "../contract/model.js";
import type { CheckCode } from "./check.js";
import type { Context } from "./context.js";
import { COMMIT_ID_BYTES, claimedCount, seal } from "./envelope.js";
import { eventsKey, type SnapshotRef } from "./meta.js";
import { openBatch, type StoredBatch } from "./reader.js";
import { decodeBatch } from "./state.js";

/** A problem before it is known whether it can be repaired. */
export interface Finding {
  readonly code: CheckCode;
  readonly message: string;
  readonly key?: Key;
  readonly lostEvents?: number;
}

/** A stored batch, or what is left of one. */
export interface FoundBatch {
  readonly clock: number;
  readonly key: Key;
  readonly value: Uint8Array;
  /** `undefined` when it is damaged. */
  readonly batch: StoredBatch | undefined;
  /** Its events, when they were asked for and can be decoded. */
  readonly events: readonly unknown[] | undefined;
  /** What is damaged. */
  readonly why: string | undefined;
  /** Where a damaged batch says that it ends; not to be trusted. */
  readonly claimedEnd: number | undefined;
  /** Written by a newer version. */
  readonly newer: boolean;
}

/** A batch of the log as it will be after the edits. */
export interface Link {
  readonly clock: number;
  readonly end: number;
  readonly crc: number;
  readonly logBytes: number;
  readonly lost: boolean;
  /** `undefined` when lost, or not asked for. */
  readonly events: readonly unknown[] | undefined;
}

/** One key of the log to put or delete. */
export interface LogEdit {
  readonly key: Key;
  /** The value there now, which the commit expects; `undefined`: none. */
  readonly found: Uint8Array | undefined;
  /** `undefined`: delete. */
  readonly put: Uint8Array | undefined;
  /** Why the value there now is set aside; `undefined`: it is not, since its events stay. */
  readonly aside: string | undefined;
}

export interface LogReport {
  readonly links: readonly Link[];
  readonly edits: readonly LogEdit[];
  readonly findings: readonly Finding[];
  /** Two intact batches claim one clock: the edits are not to be made. */
  readonly ambiguous: boolean;
  /** Clocks after the new head may have been used before. */
  readonly guessedEnd: number | undefined;
}

export interface LogStart {
  readonly clock: number;
  /** Of the batch before; `undefined` when nothing tells. */
  readonly crc: number | undefined;
  readonly logBytes: number | undefined;
}

/** All batches from a clock on. Events are kept only of those before `eventsBelow`. */
export async function findBatches(
  context: Context,
  id: string,
  from: number,
  model: AnyModel | undefined,
  eventsBelow: number,
  signal: AbortSignal | undefined,
): Promise<FoundBatch[]> {
  const found: FoundBatch[] = [];
  const options = signal === undefined ? {} : { signal };
  for await (const page of context.guard.scan({ space: "events", id, from }, options)) {
    for (const { key, value } of page) {
      found.push(openFound(key, value, model, eventsBelow, context.limits.batchEventsMax));
    }
  }
  return found;
}

function openFound(
  key: Key,
  value: Uint8Array,
  model: AnyModel | undefined,
  eventsBelow: number,
  countMax: number,
): FoundBatch {
  const clock = key[2]!;
  const about = { clock, key, value, newer: false, claimedEnd: undefined, why: undefined };
  let batch: StoredBatch | undefined;
  try {
    batch = openBatch(key, value);
    const decoded = model === undefined || batch.header.lost ? undefined : decodeBatch(model, key[1], batch);
    return { ...about, batch, events: clock < eventsBelow ? decoded : undefined };
  } catch (error) {
    const newer = isCoppiceError(error, "FORMAT_UNSUPPORTED");
    if (!newer && !isCoppiceError(error, "CORRUPT")) throw error;
    const count = claimedCount(value, countMax);
    const claimedEnd = batch?.end ?? (count === undefined ? undefined : clock + count);
    return { ...about, batch: undefined, events: undefined, newer, claimedEnd, why: error.message };
  }
}

export interface LogWalkInput {
  readonly id: string;
  readonly found: readonly FoundBatch[];
  readonly start: LogStart;
  /** The snapshots that meta names, intact or not: their clocks existed. */
  readonly refs: readonly SnapshotRef[];
  /** The furthest clock that a tag names: the log has reached it. */
  readonly tagged: number;
  /** Clock of the newest intact snapshot: events below it are not lost with their batch. */
  readonly covered: number;
  /** The furthest that a damaged batch without an intact one behind it may lie from the one before. */
  readonly strayEventsMin: number;
}

/** Verifies the order, the chain, the totals and the times of a log, and plans its repair. */
export function walkLog(input: LogWalkInput): LogReport {
  return new LogWalk(input).run();
}

class LogWalk {
  readonly #input: LogWalkInput;
  readonly #links: Link[] = [];
  readonly #edits: LogEdit[] = [];
  readonly #findings: Finding[] = [];
  /** Where the next batch must begin. */
  #next: number;
  /** What it must name, to follow what is stored, and to follow what will be. */
  #named: number | undefined;
  #crc: number | undefined;
  #storedTotal: number | undefined;
  #total: number | undefined;
  #storedTime = 0;
  #time = 0;
  #chosenTime = 0;
  #ambiguous = false;
  #tailGuessed = false;

  constructor(input: LogWalkInput) {
    this.#input = input;
    const { clock, crc, logBytes } = input.start;
    this.#next = clock;
    this.#named = crc;
    this.#crc = crc;
    this.#storedTotal = logBytes;
    this.#total = logBytes;
  }

  run(): LogReport {
    const found = this.#withoutStrays();
    for (const [index, one] of found.entries()) this.#step(one, found[index + 1]);
    const end = this.#reached();
    if (this.#next < end) {
      this.#tailGuessed = true;
      const ends = this.#input.tagged === end ? "to which a tag reaches" : "where a snapshot ends";
      this.#lose(this.#next, end, undefined, undefined, {
        code: "tail-missing",
        message: `the batches from clock ${this.#next} to clock ${end}, ${ends}, are missing`,
      });
    }
    return {
      links: this.#links,
      edits: this.#edits,
      findings: this.#findings,
      ambiguous: this.#ambiguous,
      guessedEnd: this.#tailGuessed ? this.#next : undefined,
    };
  }

  /** How far the log went, whatever is left of it: 0 where neither snapshot nor tag says so. */
  #reached(): number {
    return Math.max(this.#input.tagged, ...this.#input.refs.map((ref) => ref.clock));
  }

  /**
   * Leaves out damaged values far beyond the head: their keys are not evidence of a million events between.
   */
  #withoutStrays(): FoundBatch[] {
    const { found, strayEventsMin, start } = this.#input;
    const intact = found.findLastIndex((one) => one.batch !== undefined);
    const kept = found.slice(0, intact + 1);
    let head = found[intact]?.batch?.end ?? start.clock;
    for (const one of found.slice(intact + 1)) {
      if (one.clock - head <= strayEventsMin) {
        kept.push(one);
        head = one.clock;
        continue;
      }
      this.#findings.push({
        code: "batch-stray",
        key: one.key,
        message: `a damaged value lies at clock ${one.clock}, far beyond the head ${head}`,
      });
      this.#edits.push({ key: one.key, found: one.value, put: undefined, aside: one.why ?? "stray" });
    }
    return kept;
  }

  #step(one: FoundBatch, following: FoundBatch | undefined): void {
    const { clock, key } = one;
    if (clock < this.#next) {
      this.#overlap(one);
      return;
    }
    if (clock > this.#next) {
      this.#lose(this.#next, clock, one, undefined, {
        code: "log-gap",
        message: `the batches from clock ${this.#next} to clock ${clock} are missing`,
      });
    }
    if (one.batch !== undefined) {
      this.#follow(one, one.batch);
      return;
    }
    const known = Math.max(clock + 1, one.claimedEnd ?? 0, this.#reached());
    if (following === undefined) this.#tailGuessed = true;
    this.#lose(clock, following?.clock ?? known, following, one, {
      code: "batch-damaged",
      message: `the batch at clock ${clock} is damaged: ${one.why}`,
      key,
    });
  }

  #overlap(one: FoundBatch): void {
    const { key, clock, value, why } = one;
    if (one.batch === undefined) {
      const message = `a damaged value lies at clock ${clock}, inside an intact batch`;
      this.#findings.push({ code: "batch-stray", key, message });
      this.#edits.push({ key, found: value, put: undefined, aside: why ?? "stray" });
      return;
    }
    this.#ambiguous = true;
    this.#findings.push({
      code: "log-overlap",
      key,
      message: `the batch at clock ${clock} begins inside the batch before it, and both are intact`,
    });
  }

  #follow(one: FoundBatch, batch: StoredBatch): void {
    const { key, value } = one;
    const { header, payload } = batch;
    const wrong: Finding[] = [];
    const size = payload.length;
    const fits = (total: number, before: number) => (header.lost ? total >= before : total === before + size);
    if (this.#named !== undefined && header.previousCrc !== this.#named) {
      const message = `the batch at clock ${batch.clock} does not name the batch before it`;
      wrong.push({ code: "chain-broken", message, key });
    }
    if (this.#storedTotal !== undefined && !fits(batch.logBytes, this.#storedTotal)) {
      const message = `the batch at clock ${batch.clock} does not go on with the total of log bytes`;
      wrong.push({ code: "totals-wrong", message, key });
    }
    if (batch.time < this.#storedTime) {
      const message = `the batch at clock ${batch.clock} is older than the one before it`;
      wrong.push({ code: "time-went-back", message, key });
    }
    this.#findings.push(...wrong);
    const logBytes =
      this.#total === undefined || fits(batch.logBytes, this.#total) ? batch.logBytes : this.#total + size;
    const previousCrc = this.#crc ?? header.previousCrc;
    const time = Math.max(batch.time, this.#time);
    let { crc } = batch;
    if (previousCrc !== header.previousCrc || logBytes !== batch.logBytes || time !== batch.time) {
      const count = batch.end - batch.clock;
      const body = header.lost ? crcBytes(batch.crc) : payload;
      const envelope = { count, logBytes, time, compressed: false, payload: body };
      const sealed = seal(key, { ...envelope, batch: { ...header, previousCrc } });
      if (!header.lost) crc = sealed.crc;
      this.#edits.push({ key, found: value, put: sealed.bytes, aside: wrong[0]?.message });
    }
    this.#link({ clock: batch.clock, end: batch.end, crc, logBytes, lost: header.lost, events: one.events });
    this.#named = batch.crc;
    this.#storedTotal = batch.logBytes;
    this.#storedTime = batch.time;
    this.#time = time;
    this.#chosenTime = Math.max(this.#chosenTime, header.chosenTime);
  }

  /** Plans lost batches for `[from, to)`, cut where a snapshot ends, so that replay can start there. */
  #lose(
    from: number,
    to: number,
    following: FoundBatch | undefined,
    damaged: FoundBatch | undefined,
    finding: Finding,
  ): void {
    const lostEvents = Math.max(0, to - Math.max(from, this.#input.covered));
    this.#findings.push({ key: eventsKey(this.#input.id, from), ...finding, lostEvents });
    const cuts = this.#input.refs.map((ref) => ref.clock).filter((clock) => clock > from && clock < to);
    const ends = [...new Set([...cuts, to])].sort((left, right) => left - right);
    let clock = from;
    for (const end of ends) {
      const value = clock === from ? damaged : undefined;
      this.#loseOne(clock, end, end === to ? following : undefined, value);
      clock = end;
    }
  }

  #loseOne(
    clock: number,
    end: number,
    following: FoundBatch | undefined,
    damaged: FoundBatch | undefined,
  ): void {
    const key = eventsKey(this.#input.id, clock);
    const next = following?.clock === end ? following.batch : undefined;
    const ref = this.#input.refs.find((one) => one.clock === end);
    const crc = next?.header.previousCrc ?? ref?.crc ?? 0;
    const before = next === undefined ? ref?.logBytes : next.logBytes - next.payload.length;
    const logBytes = Math.max(before ?? 0, this.#total ?? 0);
    if (this.#time === 0) this.#time = next?.time ?? 0;
    if (next !== undefined && !next.header.chosen) {
      this.#chosenTime = Math.max(this.#chosenTime, next.header.chosenTime);
    }
    const { bytes } = seal(key, {
      count: end - clock,
      logBytes,
      time: this.#time,
      compressed: false,
      payload: crcBytes(crc),
      batch: {
        commitId: new Uint8Array(COMMIT_ID_BYTES),
        previousCrc: this.#crc ?? 0,
        chosen: false,
        chosenTime: this.#chosenTime,
        info: undefined,
        lost: true,
      },
    });
    this.#edits.push({ key, found: damaged?.value, put: bytes, aside: damaged?.why });
    this.#link({ clock, end, crc, logBytes, lost: true, events: undefined });
    this.#named = crc;
    this.#storedTotal = logBytes;
    this.#storedTime = this.#time;
  }

  #link(link: Link): void {
    this.#links.push(link);
    this.#next = link.end;
    this.#crc = link.crc;
    this.#total = link.logBytes;
  }
}

function crcBytes(crc: number): Uint8Array {
  return new Writer(4).uint32(crc).finish();
}
