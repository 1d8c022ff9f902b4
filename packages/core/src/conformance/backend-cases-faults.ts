/**
 * Cases about writes that fail: a full disk, and commits whose outcome nobody was told.
 *
 * The subject brings the fault (`fillDisk`, `loseReply`). What the cases hold it to: a refusal says truly
 * what was written, nothing is half there, and what is acknowledged afterwards is not built on what was
 * damaged.
 */

import { isCoppiceError } from "../base/errors.js";
import type { Entry, Key } from "../contract/backend.js";
import {
  assert,
  assertBytes,
  assertLines,
  assertRejects,
  assertTried,
  type BackendCase,
  type BackendSubject,
  backendCase,
  bytes,
  declared,
  fail,
  pipelining,
  type Store,
} from "./cases.js";

/** A disk that takes so many commits is not full. */
const COMMITS_MAX = 2000;
const VALUE_BYTES = 20_000;

function filling(subject: BackendSubject): Promise<string | undefined> {
  return Promise.resolve(subject.fillDisk === undefined ? "the subject cannot fill its disk" : undefined);
}

function losing(subject: BackendSubject): Promise<string | undefined> {
  return Promise.resolve(subject.loseReply === undefined ? "the subject cannot lose a reply" : undefined);
}

async function persisting(subject: BackendSubject): Promise<string | undefined> {
  const { durability } = (await declared(subject)).traits;
  return durability === "none" ? "the backend promises no durability" : filling(subject);
}

export const fullDiskCases: readonly BackendCase[] = [
  backendCase(
    "BK26",
    "a full disk refuses commits, and nothing acknowledged before it is lost",
    fills,
    filling,
  ),
  backendCase(
    "BK26",
    "what is acknowledged after a full disk is there at every later opening",
    goesOn,
    persisting,
  ),
];

export const unknownOutcomeCases: readonly BackendCase[] = [true, false].flatMap((applied) => {
  const when = applied ? "took effect" : "did not take effect";
  return [
    backendCase(
      "BK27",
      `a commit that ${when} and whose reply is lost is unknown, whole or absent, and stays so`,
      (store) => unknown(store, applied),
      losing,
    ),
    backendCase(
      "BK27",
      `a commit that ${when} and whose reply is lost takes effect once when it is repeated`,
      (store) => repeated(store, applied),
      losing,
    ),
    backendCase(
      "BK27",
      `what waits behind a commit that ${when} and whose reply is lost is told the truth`,
      (store) => behind(store, applied),
      losing,
    ),
    backendCase(
      "BK57",
      `a commit that is called while one is under way that ${when}, and whose reply is lost, is not written`,
      (store) => ahead(store, applied),
      losingAhead,
    ),
  ];
});

async function losingAhead(subject: BackendSubject): Promise<string | undefined> {
  const why = (await pipelining(subject)) ?? (await losing(subject));
  if (why !== undefined) return why;
  const { poisonsItself } = (await declared(subject)).traits;
  return poisonsItself ? undefined : "the backend goes on after a commit in doubt";
}

/** What happened to numbered commits, and whether the store shows just that. */
class Told {
  readonly acknowledged = new Set<number>();
  readonly refused = new Set<number>();
  readonly unknown = new Set<number>();
  /** Those that a read has shown: what reads show is durable, also of a commit that failed. */
  readonly shown = new Set<number>();
  #next = 0;

  /** Resolves with the code of the refusal, if it was refused. */
  async commit(store: Store, valueBytes = 10): Promise<string | undefined> {
    const n = this.#next++;
    try {
      await store.guard.commit({ put: halves(n, valueBytes) });
      this.acknowledged.add(n);
      return undefined;
    } catch (error) {
      if (!isCoppiceError(error)) throw error;
      (error.code === "OUTCOME_UNKNOWN" ? this.unknown : this.refused).add(n);
      return error.code;
    }
  }

  /** `after` names the moment in the message of a failure. */
  async verify(store: Store, after: string): Promise<void> {
    for (let n = 0; n < this.#next; n++) {
      const [first, second] = halves(n, 0).map(({ key }) => key) as [Key, Key];
      const [one, two] = [await store.guard.get(first), await store.guard.get(second)];
      assert((one === undefined) === (two === undefined), `${after}: half of commit ${n} is there`);
      if (this.acknowledged.has(n))
        assert(one !== undefined, `${after}: the acknowledged commit ${n} is lost`);
      if (this.refused.has(n)) assert(one === undefined, `${after}: the refused commit ${n} is there`);
      if (this.shown.has(n))
        assert(one !== undefined, `${after}: commit ${n} is gone, which reads had shown`);
      if (one !== undefined) this.shown.add(n);
      if (one !== undefined) assertBytes(one, halves(n, one.length)[0]!.value, `${after}: commit ${n}`);
    }
  }
}

function halves(n: number, valueBytes: number): [Entry, Entry] {
  const value = new Uint8Array(valueBytes).fill(n % 251);
  return [
    { key: ["events", "doc", n], value },
    { key: ["meta", `doc${n}`], value: bytes(`${n}`) },
  ];
}

/** Commits until one is refused, and makes room again. */
async function fill(store: Store, told: Told): Promise<string | undefined> {
  const free = await store.subject.fillDisk!(store.factory);
  let code: string | undefined;
  try {
    for (let i = 0; code === undefined && i < COMMITS_MAX; i++) code = await told.commit(store, VALUE_BYTES);
    if (code !== undefined) {
      const said = ["UNAVAILABLE", "OUTCOME_UNKNOWN", "STORE_FULL"].includes(code);
      assert(said, `a commit on a full disk rejected with ${code}`);
      await told.verify(store, "while the disk is full");
      const later = await told.commit(store, VALUE_BYTES);
      const expected = code === "STORE_FULL" ? code : "POISONED";
      assert(
        !poisons(store, code) || later === expected,
        `after a failed write a commit was ${later ?? "taken"}`,
      );
    }
  } finally {
    await free();
  }
  return code;
}

/** `STORE_FULL` says that nothing was written and that the backend lives; it has to go on refusing. */
function poisons(store: Store, code: string | undefined): boolean {
  return store.backend.traits.poisonsItself && code !== undefined;
}

async function fills(store: Store): Promise<void> {
  const told = new Told();
  for (let i = 0; i < 20; i++) await told.commit(store);
  const code = await fill(store, told);
  if (code !== "STORE_FULL" && poisons(store, code)) {
    const later = await told.commit(store);
    assert(later === "POISONED", `before it was reopened a commit was ${later ?? "taken"}`);
  }
  await told.verify(store, "with room again");
  if (store.backend.traits.durability !== "none") await store.reopen();
  await told.verify(store, "after reopening");
  assertTried(code !== undefined, `the disk took ${COMMITS_MAX} commits and never got full`);
}

/** The disk gets full and free, and again; between that the store must work as if nothing had been. */
async function goesOn(store: Store): Promise<void> {
  const told = new Told();
  let refusals = 0;
  for (let round = 0; round < 3; round++) {
    for (let i = 0; i < 50; i++) {
      const code = await told.commit(store);
      assert(code === undefined, `with room on the disk a commit was refused with ${code}`);
    }
    if ((await fill(store, told)) !== undefined) refusals++;
    if (store.backend.traits.poisonsItself) await store.reopen();
    for (let i = 0; i < 50; i++) {
      const code = await told.commit(store);
      assert(code === undefined, `after there was room again a commit was refused with ${code}`);
    }
    await store.reopen();
    await told.verify(store, `round ${round}, after reopening`);
  }
  if (store.subject.crash !== undefined) {
    await store.crash();
    await told.verify(store, "after the death of the process");
  }
  assertTried(refusals > 0, "the disk never got full");
}

/** Commits once with its reply lost; resolves with what is there then. */
async function lose(store: Store, told: Told, applied: boolean): Promise<boolean> {
  for (let i = 0; i < 5; i++) await told.commit(store);
  await store.subject.loseReply!(store.factory, applied);
  const code = await told.commit(store);
  if (code === undefined) return fail("a commit whose reply was lost resolved");
  if (store.backend.traits.poisonsItself) {
    await assertRejects("POISONED", "the next commit", () => store.guard.commit({ put: halves(900, 1) }));
    await told.verify(store, "before it was reopened");
    await store.reopen();
  }
  const there = (await store.guard.get(["events", "doc", 5])) !== undefined;
  assert(
    !there || code === "OUTCOME_UNKNOWN",
    `a commit is there that was refused with ${code}, as surely not written`,
  );
  assertTried(there === applied, `the commit ${there ? "took" : "did not take"} effect`);
  return there;
}

async function unknown(store: Store, applied: boolean): Promise<void> {
  const told = new Told();
  await lose(store, told, applied);
  await told.verify(store, "after the reply was lost");
  const before = await store.dump();
  if (store.backend.traits.durability !== "none") {
    for (let i = 0; i < 2; i++) {
      await store.reopen();
      assertLines(await store.dump(), before, "reopened with nothing written between");
    }
  }
  await told.commit(store);
  await told.verify(store, "after the next commit");
}

async function repeated(store: Store, applied: boolean): Promise<void> {
  const key = ["events", "doc", 5] as const;
  const again = () => store.guard.commit({ put: halves(5, 10), expect: [{ key, value: undefined }] });
  const there = await lose(store, new Told(), applied);
  if (there) await assertRejects("COMMIT_CONFLICT", "the repeated commit", again);
  else await again();
  await assertRejects("COMMIT_CONFLICT", "the commit repeated once more", again);
  const expected = 12;
  const found = (await store.dump()).length;
  assert(found === expected, `${found} entries, where six commits leave ${expected}`);
}

async function behind(store: Store, applied: boolean): Promise<void> {
  const told = new Told();
  await told.commit(store);
  await store.subject.loseReply!(store.factory, applied);
  // Of one document, so that they cannot go down together.
  const codes = await Promise.all(Array.from({ length: 5 }, () => told.commit(store)));
  assertTried(codes[0] !== undefined, "no reply was lost");
  if (store.backend.traits.poisonsItself) {
    for (const code of codes.slice(1)) assert(code === "POISONED", `one that waited was ${code ?? "taken"}`);
    await told.verify(store, "before it was reopened");
    await store.reopen();
  }
  await told.verify(store, "after the reply was lost");
}

async function ahead(store: Store, applied: boolean): Promise<void> {
  const commit = (id: string) =>
    store.backend.commit({ put: [{ key: ["events", id, 0], value: bytes(id) }] });
  await commit("before");
  await store.subject.loseReply!(store.factory, applied);
  const [first, second] = await Promise.allSettled([commit("first"), commit("second")]);
  assertTried(first.status === "rejected", "no reply was lost");
  assert(second.status === "rejected", "one that was called while it was under way was taken");
  await store.reopen();
  const found = await store.dump();
  assert(
    !found.some((line) => line.includes("second")),
    "one that was called while it was under way is there",
  );
  assertTried(found.some((line) => line.includes("first")) === applied, "the fault was another one");
}
