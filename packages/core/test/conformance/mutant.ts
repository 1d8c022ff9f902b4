/**
 * What a mutant is: a right backend with one defect, and the case of the conformance kit that must catch it.
 *
 * Mutants of the contract are built on the memory backend, those of crashes and faults on the simulated one, whose
 * subject can crash, lose its power, fill its disk and lose replies.
 */

import { type Backend, type BackendFactory, type Env, memoryBackend, systemEnv, type Traits } from "coppice";
import type { BackendSubject } from "coppice/conformance";
import {
  type CrashOptions,
  type SimulatedBackend,
  type SimulatedBackendOptions,
  simulatedBackend,
} from "coppice/testing";

/** What a mutant keeps over all opens of one store. */
export interface State {
  readonly kept: Map<string, Uint8Array>;
  readonly batches: Parameters<Backend["commit"]>[0][];
  opens: number;
  crashed: boolean;
}

export interface Mutant {
  readonly defect: string;
  /** The rule, and a piece of the title, of a case that must catch it. */
  readonly rule: string;
  readonly title: string;
  /** What the failure says, so that nothing else than the defect has been caught. */
  readonly reason: RegExp;
  readonly shared?: boolean;
  readonly traits?: Partial<Traits>;
  /** Present: it is built on the simulated backend. */
  readonly simulated?: SimulatedBackendOptions & { readonly keep?: CrashOptions["keep"] };
  /** Its files can be searched, and hold everything. */
  readonly holds?: boolean;
  readonly wrap: (inner: Backend, state: State) => Partial<Backend>;
  /** What it does to the disk at a crash. */
  readonly atCrash?: (disk: SimulatedBackend, state: State) => void;
  /** What it does to the disk before it opens. */
  readonly atOpen?: (disk: SimulatedBackend, state: State) => void;
}

export const pause = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Waiting in vain is quick here. */
const env: Env = { ...systemEnv(), delay: () => pause() };

interface Store {
  readonly factory: BackendFactory;
  readonly disk: SimulatedBackend | undefined;
  readonly state: State;
}

/** The mutant as the kit wants it. */
export function subjectOf(mutant: Mutant): BackendSubject {
  const stores = new Map<BackendFactory, Store>();
  const create = async () => {
    const store = makeStore(mutant);
    stores.set(store.factory, store);
    return store.factory;
  };
  const holds = mutant.holds ? { holds: async () => true } : {};
  if (mutant.simulated === undefined) return { name: mutant.defect, create, env, ...holds };
  const storeOf = (factory: BackendFactory) => stores.get(factory)!;
  const end = (how: CrashOptions) => async (factory: BackendFactory) => {
    const { disk, state } = storeOf(factory);
    disk!.crash(how);
    state.crashed = true;
    mutant.atCrash?.(disk!, state);
    return factory;
  };
  return {
    name: mutant.defect,
    create,
    env,
    crash: end({ keep: "all" }),
    powerLoss: end({ keep: mutant.simulated.keep ?? "none" }),
    fillDisk: async (factory) => {
      const { disk } = storeOf(factory);
      disk!.failNext("commit", "error", { sticky: true });
      return async () => disk!.heal();
    },
    loseReply: async (factory, applied) =>
      storeOf(factory).disk!.failNext("commit", applied ? "unknown-applied" : "unknown-lost"),
  };
}

function makeStore(mutant: Mutant): Store {
  const { keep: _, ...options } = mutant.simulated ?? {};
  const disk =
    mutant.simulated === undefined
      ? undefined
      : simulatedBackend({ exclusive: mutant.shared !== true, ...options });
  const inner: BackendFactory = disk ?? memoryBackend({ shared: mutant.shared ?? false });
  const state: State = { kept: new Map(), batches: [], opens: 0, crashed: false };
  const factory: BackendFactory = {
    name: mutant.defect,
    async open(given: Env) {
      if (disk !== undefined) mutant.atOpen?.(disk, state);
      const backend = await inner.open(given);
      state.opens++;
      const whole: Backend = {
        traits: { ...backend.traits, ...mutant.traits },
        get: (key) => backend.get(key),
        scan: (range, scanOptions) => backend.scan(range, scanOptions),
        commit: (batch) => backend.commit(batch),
        reclaim: () => backend.reclaim(),
        close: () => backend.close(),
        ...(backend.watch === undefined ? {} : { watch: (listener) => backend.watch!(listener) }),
      };
      return { ...whole, ...mutant.wrap(backend, state) };
    },
  };
  return { factory, disk, state };
}
