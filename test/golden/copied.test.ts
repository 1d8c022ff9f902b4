/**
 * Marks of copies, pinned: a target as it was copied to when the record was new is in `copied-v1.json`, and its
 * marks still tell what it has of its own. See format.test.ts for what a change of them needs.
 */

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { encodeKey, fromHex, type Key, toHex } from "coppice";
import { type SimulatedBackend, simulatedBackend, simulatedEnv } from "coppice/testing";
import { beforeAll, expect, test } from "vitest";
import { naming } from "../support/oracle-model.js";
import { dumpValue } from "./dump.js";
import { type GoldenStorage, open } from "./workload.js";

type Golden = readonly (readonly [key: Key, value: string])[];

const FILE = fileURLToPath(new URL("copied-v1.json", import.meta.url));

/** Two documents, one with a tag, copied at a time of the copy's own. */
async function copied(): Promise<{ from: GoldenStorage; target: SimulatedBackend }> {
  const env = simulatedEnv(1);
  const from = await open(simulatedBackend(), env);
  for (const name of ["a", "b", "c"]) {
    env.advance(1000);
    await from.append("plain", [naming(name)]);
    await from.append("tagged", [naming(name)]);
  }
  await from.tag("tagged", "one", 1);
  env.advance(1000);
  const target = simulatedBackend();
  const to = await open(target, env);
  expect(await from.copyTo(to)).toMatchObject({ failures: [] });
  await to.close();
  return { from, target };
}

const rows = (target: SimulatedBackend): Golden =>
  target.dump().map(({ key, value }) => [key, toHex(value)] as const);

let golden: Golden;

beforeAll(async () => {
  if (process.env.COPPICE_GOLDEN === "write")
    writeFileSync(FILE, `${JSON.stringify(rows((await copied()).target), undefined, 1)}\n`);
  golden = JSON.parse(readFileSync(FILE, "utf8")) as Golden;
});

test("[FM2] given the same time and chance, a copy leaves the same marks", async () => {
  const { from, target } = await copied();
  await from.close();
  expect(golden.filter(([[space]]) => space === "copied")).toHaveLength(2);
  expect(rows(target)).toEqual(golden);
});

test("[FM1] marks of then tell what the target has of its own, where nothing else does", async () => {
  for (const marked of [true, false]) {
    const { from } = await copied();
    for (const id of ["plain", "tagged"]) {
      for (const name of ["d", "e"]) await from.append(id, [naming(name)]);
      await from.compact(id);
    }
    const target = simulatedBackend();
    const kept = golden.filter(([[space]]) => marked || space !== "copied");
    target.restore(kept.map(([key, value]) => ({ key, value: fromHex(value) })));
    const to = await open(target, simulatedEnv(2));
    await to.append("tagged", [naming("own")]);
    const { failures } = await from.copyTo(to);
    expect(failures.map(({ id }) => id).sort()).toEqual(marked ? ["tagged"] : ["plain", "tagged"]);
    await from.close();
    await to.close();
  }
});

test("[FM3] a reader that shares no code with ours finds every field of a mark", () => {
  for (const [key, value] of golden.filter(([[space]]) => space === "copied")) {
    const shown = dumpValue(encodeKey(key), fromHex(value)).join("\n");
    for (const part of ["clock: 3", "crc: ", "incarnation: ", "tags: ", "matches"])
      expect(shown).toContain(part);
  }
});
