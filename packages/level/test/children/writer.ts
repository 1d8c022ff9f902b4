/**
 * The process that the tests trace, starve or kill: opens a store, commits one value after another through the
 * guard, and says `ACK n` with one write call after commit n was acknowledged.
 *
 * Arguments: location, durability, number of commits (0: until killed), bytes of a value, and where an anchor is to
 * be, if there is to be one. After a failure it
 * says `FAILED code`, tries once more, says `THEN code`, and ends.
 */

import { writeSync } from "node:fs";
import { levelBackend } from "@coppice/level";
import { Guard, isCoppiceError, LIMITS, systemEnv } from "coppice";

const [location, durability, commits, valueBytes, anchor] = process.argv.slice(2) as [
  string,
  string,
  string,
  string,
  string | undefined,
];
const env = systemEnv();
const factory = levelBackend(location, {
  durability: durability as "power" | "process",
  ...(anchor === undefined ? {} : { anchor }),
  // So that few large values begin another log.
  writeBufferBytes: 4 * 1024 * 1024,
});
const guard = new Guard(await factory.open(env), env, LIMITS);
const say = (text: string): void => void writeSync(1, `${text}\n`);

const commit = (n: number): Promise<void> =>
  guard.commit({
    put: [{ key: ["events", "doc", n], value: new Uint8Array(Number(valueBytes)).fill(n % 251) }],
  });

say("OPEN");
const end = Number(commits) === 0 ? Number.POSITIVE_INFINITY : Number(commits);
for (let n = 0; n < end; n++) {
  try {
    await commit(n);
    say(`ACK ${n}`);
  } catch (error) {
    say(`FAILED ${isCoppiceError(error) ? error.code : String(error)}`);
    const then = await commit(n + 1).then(
      () => "RESOLVED",
      (again: unknown) => (isCoppiceError(again) ? again.code : String(again)),
    );
    say(`THEN ${then}`);
    break;
  }
}
await guard.close().catch((error: unknown) => say(`CLOSE ${String(error)}`));
say("END");
