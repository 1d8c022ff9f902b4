/**
 * Writes a Yjs v1 update from runs of structs that lie in other updates (see `scanner.ts` for the layout).
 *
 * Keystrokes that continue each other become one text struct: a text of two characters means exactly that the
 * second has the first as its left neighbour and the same right one. This is what makes a long tail quick to
 * apply: Yjs then integrates a tenth of the structs.
 */

import { Writer } from "coppice";
import { readTextStruct, type TextStruct } from "./scanner.js";

/** Bytes [from, to) of an update that hold `count` structs of one client, covering [clock, end). */
export interface Run {
  readonly client: number;
  readonly clock: number;
  readonly end: number;
  readonly count: number;
  readonly bytes: Uint8Array;
  readonly from: number;
  readonly to: number;
}

/** Runs of one client in ascending order, not overlapping. Never empty. */
export interface Block {
  readonly client: number;
  readonly runs: readonly Run[];
}

const SKIP = 10;

/** `deletions`: for each client clocks in pairs, from and end, ascending and apart. */
export function writeUpdate(
  blocks: readonly Block[],
  deletions: ReadonlyMap<number, readonly number[]>,
): Uint8Array {
  const bodies = [...blocks].sort((a, b) => b.client - a.client).map(writeBlock);
  let size = 32;
  for (const { bytes } of bodies) size += bytes.length + 24;
  for (const ranges of deletions.values()) size += 16 + ranges.length * 4;
  const writer = new Writer(size);
  writer.varint(bodies.length);
  for (const { count, client, clock, bytes } of bodies) {
    writer.varint(count).varint(client).varint(clock).raw(bytes);
  }
  writer.varint(deletions.size);
  for (const [client, ranges] of [...deletions].sort((a, b) => b[0] - a[0])) {
    writer.varint(client).varint(ranges.length / 2);
    for (let i = 0; i < ranges.length; i += 2) writer.varint(ranges[i]!).varint(ranges[i + 1]! - ranges[i]!);
  }
  return writer.finish();
}

interface Body {
  readonly client: number;
  readonly clock: number;
  readonly count: number;
  readonly bytes: Uint8Array;
}

function writeBlock({ client, runs }: Block): Body {
  const writer = new Writer(runs.length * 8 + 64);
  const first = runs[0]!.clock;
  let [count, clock] = [0, first];
  let texts: TextStruct[] = [];
  const endText = () => {
    if (texts.length === 0) return;
    writeText(writer, texts);
    texts = [];
    count++;
  };
  for (const run of runs) {
    const text = run.count === 1 ? readTextStruct(run.bytes, run.from) : undefined;
    const gap = run.clock - clock;
    clock = run.end;
    if (gap === 0 && text !== undefined && continues(texts, text, client, run.clock)) {
      texts.push(text);
      continue;
    }
    endText();
    if (gap > 0) {
      writer.byte(SKIP).varint(gap);
      count++;
    }
    if (text !== undefined) texts.push(text);
    else {
      writer.raw(run.bytes.subarray(run.from, run.to));
      count += run.count;
    }
  }
  endText();
  return { client, clock: first, count, bytes: writer.finish() };
}

/** True when `text` at `clock` may be written as part of the struct before it. */
function continues(texts: readonly TextStruct[], text: TextStruct, client: number, clock: number): boolean {
  const before = texts[0];
  if (before === undefined || before.keyed || text.keyed) return false;
  return (
    text.leftClient === client &&
    text.leftClock === clock - 1 &&
    text.rightClient === before.rightClient &&
    text.rightClock === before.rightClock
  );
}

function writeText(writer: Writer, texts: readonly TextStruct[]): void {
  const head = texts[0]!;
  let byteCount = 0;
  for (const { textFrom, textTo } of texts) byteCount += textTo - textFrom;
  writer.raw(head.bytes.subarray(head.from, head.headTo)).varint(byteCount);
  for (const { bytes, textFrom, textTo } of texts) {
    if (textTo - textFrom > 32) writer.raw(bytes.subarray(textFrom, textTo));
    else for (let i = textFrom; i < textTo; i++) writer.byte(bytes[i]!);
  }
}
