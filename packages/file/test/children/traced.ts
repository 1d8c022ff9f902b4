/** Ten commits, one after the other, between two words on standard output; for a test that traces system calls. */

import { writeSync } from "node:fs";
import { fileLogBackend } from "@coppice/file";
import { systemEnv } from "coppice";

const backend = await fileLogBackend(process.argv[2]!).open(systemEnv());
const commit = (seq: number) =>
  backend.commit({ put: [{ key: ["events", "d", seq], value: new Uint8Array(100).fill(seq) }] });
await commit(0);
writeSync(1, "COMMITS\n");
for (let seq = 1; seq <= 10; seq++) await commit(seq);
writeSync(1, "DONE\n");
await backend.close();
