/**
 * The process that the tests kill, and the second one: commits through a guard, eight at a time, and says
 * `ACK caller number` with one write call after each acknowledgement, and first `OPEN`.
 *
 * Arguments: location, durability, round. Segments are small, and every 200 commits some keys are deleted, so that
 * rotations and merges are under way when it is killed. When it cannot open it says the code, and ends.
 */

import { writeSync } from "node:fs";
import { fileLogBackend } from "@coppice/file";
import { Guard, isCoppiceError, LIMITS, systemEnv } from "coppice";

const [location, durability, round] = process.argv.slice(2) as [string, "power" | "process", string];
const say = (text: string): void => void writeSync(1, `${text}\n`);
const env = systemEnv();
const factory = fileLogBackend(location, { durability, segmentBytesMax: 256 * 1024, mergeDeadRatioMin: 0.3 });

async function open(): Promise<Guard | undefined> {
  try {
    return new Guard(await factory.open(env), env, LIMITS);
  } catch (error) {
    say(isCoppiceError(error) ? error.code : String(error));
    return undefined;
  }
}

const guard = await open();
if (guard !== undefined) {
  say("OPEN");
  await Promise.all(Array.from({ length: 8 }, (_, caller) => write(guard, caller)));
}

async function write(guard: Guard, caller: number): Promise<void> {
  const id = `caller-${caller}`;
  const seqOf = (number: number) => Number(round) * 1_000_000 + number;
  for (let number = 0; ; number++) {
    await guard.commit({
      put: [
        { key: ["events", id, seqOf(number)], value: new Uint8Array(300).fill(number % 251) },
        { key: ["meta", id], value: new Uint8Array(600).fill(number % 251) },
      ],
      ...(number % 200 === 199 ? { delete: [{ space: "trash", id, to: number }] } : {}),
    });
    await guard.commit({ put: [{ key: ["trash", id, number], value: new Uint8Array(400) }] });
    say(`ACK ${caller} ${number}`);
  }
}
