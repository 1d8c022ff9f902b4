/**
 * The process of one side of merging: groups of 64 values overwrite random keys, so that older segments are partly dead.
 * Its first second does not count.
 */
import { fileLogBackend } from "@coppice/file";
import { systemEnv } from "coppice";
import { drive } from "./append-sides.mjs";
import { answer } from "./child.mjs";

const MIB = 1024 * 1024;
const GROUP = 64;
const KEYS = 20_000;
const value = new Uint8Array(1000).fill(7);

answer(async ({ location, mergeDeadRatioMin, warmUpMs, ms }) => {
  const factory = fileLogBackend(location, { segmentBytesMax: 8 * MIB, mergeDeadRatioMin });
  const backend = await factory.open(systemEnv());
  let state = 1;
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state % KEYS;
  };
  let commits = 0;
  const commit = async () => {
    commits++;
    const keys = [...new Set(Array.from({ length: GROUP }, next))];
    await backend.commit({ put: keys.map((key) => ({ key: ["events", "d", key], value })) });
  };
  await drive(1, warmUpMs, commit);
  const { rate } = await drive(1, ms, commit);
  const bytes = commits * GROUP * value.length;
  const amplification = (bytes + factory.stats().mergedBytesWritten) / bytes;
  await backend.close();
  return { rate: GROUP * rate, amplification };
});
