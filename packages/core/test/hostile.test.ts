/** Bytes that nobody meant, for everything in core that reads bytes. */

import {
  binaryCodec,
  crc32,
  DocumentStorage,
  decodeKey,
  encodeKey,
  isCoppiceError,
  type Key,
  LIMITS,
} from "coppice";
import { simulatedBackend } from "coppice/testing";
import {
  assertSame,
  corrupt,
  type Decoder,
  malformed,
  never,
  sealEnd,
  testHostile,
} from "../../../test/support/decoders.js";
import { nameSet, naming } from "../../../test/support/oracle-model.js";
import { inflate } from "../src/base/compression.js";
import { decodeEvents, encodeEvents } from "../src/graph/codec.js";
import { readAnswer } from "../src/graph/diff.js";
import { decodeKnown, encodeKnown } from "../src/graph/snapshot.js";
import { decodeValue, encodeValue as encodeGraphValue } from "../src/graph/values.js";
import { decodeSegment, encodeSegment } from "../src/storage/archive-segment.js";
import { claimedCount, seal, unseal } from "../src/storage/envelope.js";
import { decodeExport } from "../src/storage/export-stream.js";
import {
  type Meta,
  metaKey,
  packSnapshotRecord,
  sealMeta,
  unpackSnapshotRecord,
  unsealMeta,
} from "../src/storage/meta.js";
import { sealErased, unsealErased } from "../src/storage/tombstone.js";

const STREAM_START_BYTES = 9;

async function decoders(): Promise<Decoder[]> {
  return [...storedDecoders([await exported()]), ...graphDecoders()];
}

async function exported(): Promise<Uint8Array> {
  const storage = await DocumentStorage.open({ backend: simulatedBackend(), models: [nameSet()] });
  await storage.append("e", [naming("short"), naming("another")]);
  await storage.compact("e");
  const pieces: Uint8Array[] = [];
  for await (const piece of storage.export("e")) pieces.push(piece);
  await storage.close();
  return new Uint8Array(Buffer.concat(pieces));
}

testHostile("core", decoders);

const KEY: Key = ["events", "d", 7];
const META: Meta = {
  model: "yjs",
  created: 1_767_225_600_000,
  incarnation: "00112233445566ff",
  base: 0,
  oldest: 3,
  snapshot: { clock: 9, stage: 5, parts: 1, bytes: 100, storedBytes: 90, time: 1, logBytes: 30, crc: 77 },
  previous: { clock: 4, stage: 6, parts: 1, bytes: 100, storedBytes: 90, time: 1, logBytes: 30, crc: 77 },
  archive: [
    {
      ...{ clock: 0, end: 3, stage: 8, parts: 1, bytes: 50, storedBytes: 40 },
      ...{ firstTime: 1, lastTime: 2, logBytes: 10, crc: 3 },
    },
  ],
  commits: [{ id: new Uint8Array(16).fill(7), clock: 2 }],
  commitFloor: 5,
  deleted: undefined,
};

const payload = binaryCodec.encode([Uint8Array.of(1, 2, 3), new Uint8Array(200), new Uint8Array(0)]);

function batchOf(info: Uint8Array | undefined, chosen: boolean) {
  const commitId = new Uint8Array(16).fill(9);
  return { commitId, previousCrc: 5, chosen, chosenTime: chosen ? 77 : 0, info, lost: false };
}

const envelopes = [batchOf(undefined, false), batchOf(Uint8Array.of(1, 2), true), undefined].map(
  (batch) =>
    seal(KEY, { count: 3, logBytes: 210, time: 1_767_225_600_000, compressed: false, batch, payload }).bytes,
);

function storedDecoders(exported: readonly Uint8Array[]): Decoder[] {
  const keyed = (key: Key) => (bytes: Uint8Array) => sealEnd(bytes, crc32(encodeKey(key)));
  const segment = encodeSegment(
    [0, 1, 2].map((i) => ({
      ...{ clock: i * 3, end: i * 3 + 3, time: 1000 + i, logBytes: 210 * (i + 1), crc: i, storedBytes: 1 },
      header: batchOf(i === 1 ? Uint8Array.of(5) : undefined, i === 2),
      payload,
    })),
  );
  const record = { model: "yjs", stateFormat: 1, version: Uint8Array.of(1), peerVersion: Uint8Array.of(2) };
  return [
    {
      name: "key",
      samples: ([["a", "b"], KEY, ["events", "é\0x", 2 ** 40, 3]] as const).map((key) => encodeKey(key)),
      decode: (bytes) => assertSame("key", encodeKey(decodeKey(bytes)), bytes),
      refuses: malformed,
    },
    {
      name: "envelope",
      samples: envelopes,
      decode: (bytes) => unseal(KEY, bytes),
      refuses: corrupt,
      seal: keyed(KEY),
    },
    {
      name: "claimed count",
      samples: envelopes,
      decode: (bytes) => claimedCount(bytes, 100),
      refuses: never,
    },
    {
      name: "meta",
      samples: [META, { ...META, archive: [], oldest: 0, deleted: { clock: 9, time: 4 } }].map((meta) =>
        sealMeta("d", meta, 5),
      ),
      decode: (bytes) => unsealMeta("d", bytes),
      refuses: corrupt,
      seal: keyed(metaKey("d")),
    },
    {
      name: "snapshot record",
      samples: [
        packSnapshotRecord({
          ...record,
          held: [1, 2],
          lost: [3],
          bytes: 9,
          parts: 1,
          compressed: true,
          tag: "v1",
        }),
      ],
      decode: (bytes) => unpackSnapshotRecord(["snapshot", "d", 1], bytes),
      refuses: corrupt,
    },
    {
      name: "erased",
      samples: [sealErased(["erased", "d"], { clock: 4, time: 5, commitFloor: 1 })],
      decode: (bytes) => unsealErased(["erased", "d"], bytes),
      refuses: corrupt,
      seal: keyed(["erased", "d"]),
    },
    {
      name: "archive segment",
      samples: [segment],
      decode: (bytes) => decodeSegment(bytes, { clock: 0, logBytes: 630, crc: 2 }),
      refuses: malformed,
    },
    { name: "events", samples: [payload], decode: (bytes) => binaryCodec.decode(bytes), refuses: malformed },
    {
      name: "export stream",
      samples: exported,
      decode: async (bytes) => {
        for await (const _ of decodeExport(piecesOf(bytes), LIMITS));
      },
      refuses: (error) =>
        isCoppiceError(error) && (error.code === "EXPORT_INVALID" || error.code === "FORMAT_UNSUPPORTED"),
      seal: sealStream,
      every: 16,
    },
    {
      name: "deflated",
      samples: [],
      decode: (bytes) => inflate(bytes, 100),
      refuses: malformed,
      every: 256,
    },
  ];
}

async function* piecesOf(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  const middle = bytes.length >> 1;
  yield bytes.subarray(0, middle);
  yield bytes.subarray(middle);
}

/** The checksum of each frame of a stream: kind, length, body, CRC. */
function sealStream(bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = STREAM_START_BYTES; at + 9 <= bytes.length; ) {
    const end = at + 5 + view.getUint32(at + 1, true);
    if (end + 4 > bytes.length) return;
    view.setUint32(end, crc32(bytes, 0, at, end), true);
    at = end + 4;
  }
}

function graphDecoders(): Decoder[] {
  const id = (sequence: number) => ({ replica: "0123456789ag", sequence });
  const events = [
    { ...id(0), parents: [], lamport: 1, time: 5, version: 1, payload: { a: [1, -2.5, "x", null, true] } },
    { ...id(1), parents: [id(0)], lamport: 2, time: 6, version: 1, payload: "second" },
  ];
  const batch = encodeEvents(events as never);
  const known = encodeKnown(new Map([["0123456789ag", 2]]));
  return [
    {
      name: "graph events",
      samples: [batch],
      decode: (bytes) => decodeEvents(bytes),
      refuses: malformed,
      seal: (bytes) => sealEnd(bytes),
    },
    {
      name: "graph value",
      samples: [
        encodeGraphValue({ a: [1, 2.5, "text", null, true, new Uint8Array(3)] }),
        encodeGraphValue("ä"),
      ],
      decode: (bytes) => decodeValue(bytes),
      refuses: malformed,
    },
    {
      name: "graph answer",
      samples: [new Uint8Array([0, ...batch])],
      decode: (bytes) => readAnswer(bytes),
      refuses: malformed,
    },
    { name: "graph version", samples: [known], decode: (bytes) => decodeKnown(bytes), refuses: malformed },
  ];
}
