/**
 * Defective backends that fail when the process dies, the power goes, the disk is full or a reply is lost. Each is a
 * simulated backend with one defect.
 */

import { type Batch, CoppiceError, isCoppiceError, isRangeDeletion, type Key, keyName } from "coppice";
import { type Mutant, pause, type State } from "./mutant.js";

const ACKNOWLEDGED = "what was acknowledged survives";
const PREFIX = "leaves what one writer wrote up to some commit";
const same: Mutant["wrap"] = () => ({});

/** Remembers what was committed, newest last. */
const remember: Mutant["wrap"] = (inner, { batches }) => ({
  commit: async (batch) => {
    await inner.commit(batch);
    batches.push(batch);
  },
});

const putsOf = ({ batches }: State): readonly NonNullable<Batch["put"]>[number][] =>
  batches.at(-1)?.put ?? [];

const failedWith = (error: unknown) => !isCoppiceError(error, "COMMIT_CONFLICT");

export const faultMutants: readonly Mutant[] = [
  {
    defect: "forgets the sync",
    rule: "BK13",
    title: `${ACKNOWLEDGED} a loss of power`,
    reason: /were acknowledged/,
    simulated: { sync: "never", durability: "power" },
    wrap: same,
  },
  {
    defect: "syncs only every third commit",
    rule: "BK13",
    title: `${ACKNOWLEDGED} a loss of power`,
    reason: /were acknowledged/,
    simulated: { sync: { every: 3 }, durability: "power" },
    wrap: same,
  },
  {
    defect: "acknowledges before it has written",
    rule: "BK13",
    title: `${ACKNOWLEDGED} the death of the process`,
    reason: /were acknowledged/,
    simulated: {},
    wrap: (inner) => ({
      commit: async (batch) => {
        const late = pause().then(() => inner.commit(batch));
        late.catch(() => undefined);
      },
    }),
  },
  {
    defect: "acknowledges a commit with the one that was under way when it was called",
    rule: "BK57",
    title: "a loss of power leaves those up to some commit",
    reason: /lost .* acknowledged|was acknowledged before/,
    traits: { pipelined: true },
    simulated: {},
    wrap: (inner) => {
      let underway = 0;
      let last: Promise<void> = Promise.resolve();
      return {
        commit: async (batch) => {
          const before = last;
          const written = before.then(() => inner.commit(batch)).finally(() => underway--);
          last = written.catch(() => undefined);
          await (underway++ > 0 ? before : written);
        },
      };
    },
  },
  {
    defect: "writes a commit after one in doubt",
    rule: "BK57",
    title: "that did not take effect, and whose reply is lost, is not written",
    reason: /was taken/,
    traits: { pipelined: true },
    simulated: {},
    wrap: same,
  },
  {
    defect: "lets the disk reorder what it has not synced",
    rule: "BK25",
    title: `a loss of power ${PREFIX}`,
    reason: /there are those of|lost .* acknowledged/,
    simulated: { sync: { every: 7 }, durability: "power", keep: "subset" },
    wrap: same,
  },
  {
    defect: "applies half a batch when the process dies",
    rule: "BK3",
    title: "after the death of the process each commit",
    reason: /the other half of commit|halves of commits/,
    simulated: {},
    wrap: remember,
    atCrash: (disk, state) => {
      const half = putsOf(state).at(-1);
      if (half !== undefined) disk.deleteRaw(half.key);
    },
  },
  {
    defect: "reuses a clock after a crash",
    rule: "BK25",
    title: `the death of the process ${PREFIX}`,
    reason: /says that it has|lost .* acknowledged/,
    simulated: {},
    wrap: remember,
    atCrash: (disk, { batches }) => {
      const heads = batches.flatMap(({ put = [] }) => put.filter(({ key }) => key[0] === "meta"));
      const earlier = heads.at(-2);
      if (earlier !== undefined) disk.putRaw(earlier.key, earlier.value);
    },
  },
  {
    defect: "brings back what was deleted when the process dies",
    rule: "BK25",
    title: "stays so through the death of the process",
    reason: /after the crash/,
    simulated: {},
    wrap: (inner, { kept }) => ({
      commit: async (batch) => {
        for (const deletion of batch.delete ?? []) {
          if (isRangeDeletion(deletion)) continue;
          const value = await inner.get(deletion);
          if (value !== undefined) kept.set(JSON.stringify(deletion), value);
        }
        await inner.commit(batch);
      },
    }),
    atCrash: (disk, { kept }) => {
      for (const [key, value] of kept) disk.putRaw(JSON.parse(key) as Key, value);
    },
  },
  {
    defect: "forgets a trim when the process dies",
    rule: "BK25",
    title: "stays so through the death of the process",
    reason: /after the crash/,
    simulated: {},
    wrap: (inner, { kept }) => ({
      commit: async (batch) => {
        for (const deletion of (batch.delete ?? []).filter(isRangeDeletion)) {
          for await (const page of inner.scan(deletion)) {
            for (const { key, value } of page) kept.set(JSON.stringify(key), value);
          }
        }
        await inner.commit(batch);
      },
    }),
    atCrash: (disk, { kept }) => {
      for (const [key, value] of kept) disk.putRaw(JSON.parse(key) as Key, value);
    },
  },
  {
    defect: "keeps its lock through the death of the process",
    rule: "BK25",
    title: "after the death of the process the store is free",
    reason: /LOCKED|already open/,
    simulated: {},
    wrap: same,
    atOpen: (_, { crashed }) => {
      if (crashed) throw new CoppiceError("LOCKED", "already open");
    },
  },
  {
    defect: "recovers anew at every opening, and differently",
    rule: "BK25",
    title: "what the death of the process left is the same",
    reason: /at opening 2/,
    simulated: {},
    wrap: remember,
    atOpen: (disk, state) => {
      const last = putsOf(state).at(-1);
      const present = disk.keys().some((key) => last !== undefined && keyName(key) === keyName(last.key));
      if (state.crashed && state.opens > 1 && present) disk.deleteRaw(last!.key);
    },
  },
  {
    defect: "serves after a crash what it loses at the next one",
    rule: "BK25",
    title: "what a loss of power left is the same",
    reason: /after a second crash/,
    simulated: {},
    wrap: remember,
    atCrash: (disk, state) => {
      const last = putsOf(state).at(-1);
      if (state.kept.size > 0 && last !== undefined) disk.deleteRaw(last.key);
      state.kept.set("crashed before", new Uint8Array(0));
    },
  },
  {
    defect: "forgets after a crash what is expected",
    rule: "BK25",
    title: "after a loss of power the store is free",
    reason: /should reject with COMMIT_CONFLICT, but resolved/,
    simulated: {},
    wrap: (inner, { crashed }) => ({
      commit: (batch) => inner.commit(crashed ? { ...batch, expect: [] } : batch),
    }),
  },
  {
    defect: "says nothing of a write that failed",
    rule: "BK26",
    title: "a full disk refuses commits",
    reason: /acknowledged commit .* is lost/,
    simulated: {},
    wrap: (inner) => ({
      commit: (batch) =>
        inner.commit(batch).catch((error: unknown) => {
          if (!failedWith(error)) throw error;
        }),
    }),
  },
  {
    defect: "writes half of what does not fit",
    rule: "BK26",
    title: "a full disk refuses commits",
    reason: /half of commit/,
    simulated: { exclusive: false },
    shared: true,
    wrap: (inner, { kept }) => ({
      commit: async (batch) => {
        await inner.commit(batch).catch((error: unknown) => {
          const [first] = batch.put ?? [];
          if (failedWith(error) && first !== undefined) kept.set(keyName(first.key), first.value);
          throw error;
        });
      },
      get: async (key) => (await inner.get(key)) ?? kept.get(keyName(key)),
    }),
  },
  {
    defect: "goes on after a full disk, and loses that at the next opening",
    rule: "BK26",
    title: "what is acknowledged after a full disk",
    reason: /after reopening: the acknowledged commit/,
    traits: { poisonsItself: false },
    simulated: {},
    wrap: (inner, { kept }) => {
      let damaged = false;
      return {
        commit: async (batch) => {
          await inner.commit(batch).catch((error: unknown) => {
            damaged = true;
            throw error;
          });
          if (!damaged) return;
          for (const { key, value } of batch.put ?? []) kept.set(JSON.stringify(key), value);
        },
      };
    },
    atOpen: (disk, { kept }) => {
      for (const key of kept.keys()) disk.deleteRaw(JSON.parse(key) as Key);
      kept.clear();
    },
  },
  {
    defect: "stays refusing when there is room again",
    rule: "BK26",
    title: "what is acknowledged after a full disk",
    reason: /after there was room again a commit was refused/,
    traits: { poisonsItself: false },
    simulated: {},
    wrap: (inner) => {
      let failed: unknown;
      return {
        commit: async (batch) => {
          if (failed !== undefined) throw failed;
          await inner.commit(batch).catch((error: unknown) => {
            failed = new CoppiceError("UNAVAILABLE", "still full", { cause: error });
            throw failed;
          });
        },
      };
    },
  },
  {
    defect: "repeats a failed sync and believes it",
    rule: "BK27",
    title: "a commit that did not take effect and whose reply is lost is unknown",
    reason: /resolved/,
    simulated: {},
    wrap: (inner) => ({
      commit: (batch) =>
        inner.commit(batch).catch((error: unknown) => {
          if (!isCoppiceError(error, "OUTCOME_UNKNOWN")) throw error;
        }),
    }),
  },
  {
    defect: "says surely not written of what was written",
    rule: "BK27",
    title: "a commit that took effect and whose reply is lost is unknown",
    reason: /before it was reopened: the refused commit 5 is there/,
    simulated: {},
    wrap: (inner) => ({
      commit: (batch) =>
        inner.commit(batch).catch((error: unknown) => {
          if (!isCoppiceError(error, "OUTCOME_UNKNOWN")) throw error;
          throw new CoppiceError("UNAVAILABLE", "surely not written", { cause: error });
        }),
    }),
  },
  {
    defect: "writes later what it said was unknown",
    rule: "BK27",
    title: "a commit that did not take effect and whose reply is lost is unknown",
    reason: /reopened with nothing written between/,
    simulated: {},
    wrap: (inner, { batches }) => ({
      commit: (batch) =>
        inner.commit(batch).catch((error: unknown) => {
          batches.push(batch);
          throw error;
        }),
    }),
    atOpen: (disk, { batches, opens }) => {
      for (const { key, value } of opens < 2 ? [] : (batches.at(-1)?.put ?? [])) disk.putRaw(key, value);
    },
  },
  {
    defect: "shows what it could not write until it is opened again",
    rule: "BK27",
    title: "a commit that did not take effect and whose reply is lost is unknown",
    reason: /after the reply was lost: commit 5 is gone, which reads had shown/,
    simulated: {},
    wrap: (inner) => {
      const unwritten = new Map<string, Uint8Array>();
      return {
        commit: (batch) =>
          inner.commit(batch).catch((error: unknown) => {
            for (const { key, value } of batch.put ?? []) unwritten.set(keyName(key), value);
            throw error;
          }),
        get: async (key) => (await inner.get(key)) ?? unwritten.get(keyName(key)),
      };
    },
  },
  {
    defect: "takes a repeated commit for a new one",
    rule: "BK27",
    title: "a commit that took effect and whose reply is lost takes effect once",
    reason: /should reject with COMMIT_CONFLICT, but resolved/,
    simulated: {},
    wrap: (inner, { opens }) => ({
      commit: (batch) => inner.commit(opens > 1 ? { ...batch, expect: [] } : batch),
    }),
  },
  {
    defect: "acknowledges what waits behind a failed commit",
    rule: "BK27",
    title: "what waits behind a commit that did not take effect",
    reason: /the acknowledged commit .* is lost/,
    shared: true,
    traits: { poisonsItself: false },
    simulated: { exclusive: false },
    wrap: (inner) => {
      let failed = false;
      return {
        commit: async (batch) => {
          if (failed) return;
          await inner.commit(batch).catch((error: unknown) => {
            failed = true;
            throw error;
          });
        },
      };
    },
  },
];
