/** Bytes that nobody meant, for everything that reads the files of a file log. The samples are of a real store. */

import { type DiskImage, SimulatedDisk } from "@coppice/file/testing";
import { crc32, encodeKey } from "coppice";
import { seededRandom, simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import {
  assertSame,
  type Decoder,
  never,
  sealEnd,
  testHostile,
  typed,
  Word,
} from "../../../test/support/decoders.js";
import { DELETE_RANGE, FRAME_HEADER_BYTES, FrameWriter, RECORD_HEADER_BYTES, seedOf } from "../src/frame.js";
import { type RecordVisitor, readHint, visitHint } from "../src/hints.js";
import { readManifest } from "../src/manifest.js";
import {
  decodeSegmentHeader,
  encodeSegmentHeader,
  SEGMENT_HEADER_BYTES,
  type Segment,
} from "../src/segment.js";
import { judgeTail, walkFrames } from "../src/tail.js";
import { factoryOn } from "./crash-tools.js";

testHostile("file", decoders);

test("[FL6] a deleted range without both of its bounds is no record, though its checksums hold", () => {
  const start = { end: SEGMENT_HEADER_BYTES, sequence: 0, chain: 5 };
  for (const [length, count] of [
    [0, 0],
    [8, 0],
    [16, 1],
    [24, 0],
  ] as const) {
    const writer = new FrameWriter();
    writer.begin(SEGMENT_HEADER_BYTES, 9);
    writer.add(DELETE_RANGE, encodeKey(["events", "d"]), new Uint8Array(length).fill(1));
    const frame = writer.finish(1, start.chain);
    const bytes = Buffer.alloc(2 * SEGMENT_HEADER_BYTES);
    bytes.set(frame.bytes.subarray(0, frame.length), SEGMENT_HEADER_BYTES);
    let visited = 0;
    const { end } = walkFrames(bytes, 0, start, 9, () => {
      visited++;
    });
    expect([length, visited]).toEqual([length, count]);
    expect(judgeTail(bytes, end, 9).kind).toBe(count === 1 ? "clean" : "damaged");
  }
});

async function smallStore(): Promise<DiskImage> {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { mergeDeadRatioMin: 1 });
  const backend = await factory.open(simulatedEnv(1));
  const random = seededRandom(2);
  for (let seq = 0; seq < 12; seq++) {
    const value = seq === 5 ? new Uint8Array(1200) : random.bytes(20 * seq);
    await backend.commit({ put: [{ key: ["events", "d", seq], value }] });
    if (seq === 6)
      await backend.commit({ delete: [{ space: "events", id: "d", from: 1, to: 3 }, ["meta", "d"]] });
    if (seq === 4 || seq === 8) await factory.merge({ force: true });
  }
  await backend.close();
  return disk.image();
}

async function decoders(): Promise<Decoder[]> {
  const image = await smallStore();
  const named = (end: string) => [...image].filter(([name]) => name.endsWith(end)).map(([, bytes]) => bytes);
  const segments = named(".seg").map(withoutZeros);
  const header = decodeSegmentHeader(segments.at(-1)!)!;
  const frames = segments.filter((bytes) => decodeSegmentHeader(bytes)?.salt === header.salt);
  const hints = named(".hint");
  const hintOf = { number: 0, salt: 0, end: 0 };
  return [
    {
      name: "file segment header",
      samples: segments.map((bytes) => bytes.slice(0, 64)),
      decode: (bytes) => {
        const read = decodeSegmentHeader(bytes);
        if (read !== undefined)
          assertSame("segment header", encodeSegmentHeader(read), bytes.subarray(0, 64));
      },
      refuses: never,
      seal: (bytes) => {
        if (bytes.length >= 64) sealEnd(bytes.subarray(0, 64));
      },
    },
    {
      name: "file frames",
      samples: frames.map((bytes) => bytes.slice(SEGMENT_HEADER_BYTES)),
      decode: (bytes) => walkAll(Buffer.from(bytes), header.salt, header),
      refuses: never,
      seal: (bytes) => sealFrame(bytes, header.salt),
    },
    {
      name: "file manifest",
      samples: named("MANIFEST"),
      decode: async (bytes) =>
        readManifest(await new SimulatedDisk(new Map([["MANIFEST", bytes]])).files(false)),
      refuses: typed,
      seal: sealManifest,
      every: 4,
    },
    {
      name: "file hint",
      samples: hints,
      decode: async (bytes) => {
        const view = Buffer.from(bytes);
        if (view.length >= 28) {
          hintOf.number = Number(view.readBigUInt64LE(8));
          hintOf.salt = view.readUInt32LE(16);
          hintOf.end = Number(view.readBigUInt64LE(20));
        }
        const name = `${String(hintOf.number).padStart(8, "0")}.hint`;
        const files = await new SimulatedDisk(new Map([[name, bytes]])).files(false);
        const hint = await readHint(files, hintOf as Segment);
        if (hint !== undefined) visitHint(hint, pass);
        return new Word(hint === undefined ? "passed over" : "visited");
      },
      refuses: never,
      seal: (bytes) => sealEnd(bytes),
      every: 4,
    },
  ];
}

/** Keys are well-formed where a checksum holds. */
const pass: RecordVisitor = () => undefined;

/** As recovery does, from the end of the segment's header on. */
function walkAll(frames: Buffer, salt: number, start: { sequence: number; chain: number }): Word {
  const bytes = Buffer.alloc(SEGMENT_HEADER_BYTES + frames.length);
  frames.copy(bytes, SEGMENT_HEADER_BYTES);
  const from = { end: SEGMENT_HEADER_BYTES, sequence: start.sequence, chain: start.chain };
  const { end } = walkFrames(bytes, 0, from, salt, pass);
  return new Word(judgeTail(bytes, end, salt).kind);
}

/** The checksums of the first frame: of each record, of all their headers, of its own header. */
function sealFrame(bytes: Uint8Array, salt: number): void {
  if (bytes.length < FRAME_HEADER_BYTES) return;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const end = FRAME_HEADER_BYTES + view.getUint32(4, true);
  let [at, count, check] = [FRAME_HEADER_BYTES, 0, 0];
  while (at + RECORD_HEADER_BYTES <= Math.min(end, bytes.length)) {
    const next = at + RECORD_HEADER_BYTES + view.getUint16(at + 6, true) + view.getUint32(at + 8, true);
    if (next > end || next > bytes.length) break;
    const seed = seedOf(salt, SEGMENT_HEADER_BYTES + at);
    view.setUint32(at, crc32(bytes, seed, at + 4, next), true);
    check = crc32(bytes, check, at, at + RECORD_HEADER_BYTES);
    count++;
    at = next;
  }
  view.setUint32(16, count, true);
  view.setUint32(24, check, true);
  view.setUint32(28, crc32(bytes, seedOf(salt, SEGMENT_HEADER_BYTES), 0, 28), true);
}

function sealManifest(bytes: Uint8Array): void {
  const end = bytes.indexOf(10);
  if (end < 8) return;
  bytes.set(
    Buffer.from(
      crc32(bytes, 0, end + 1)
        .toString(16)
        .padStart(8, "0"),
    ),
    end - 8,
  );
}

function withoutZeros(bytes: Uint8Array): Uint8Array {
  let used = bytes.length;
  while (used > 0 && bytes[used - 1] === 0) used--;
  return bytes.slice(0, used);
}
