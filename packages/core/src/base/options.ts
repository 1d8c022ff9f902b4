/**
 * Refuses options that there are not, and values of another kind: a misspelt one would else be ignored, and
 * `dryrun` trims in earnest; `readOnly: "yes"` would open for writing.
 *
 * Which values of its kind are good, each call knows. And what is handed over as a storage is looked at here,
 * for those that are built on one.
 */

/** What values of an option are; `"any"`, and which numbers of a `"number"`: its call looks at it. */
export type OptionKind = "flag" | "function" | "signal" | "text" | NumberKind | "any";

type NumberKind = "number" | "amount" | "count" | "positive";

type KindOf<Value> = [Value] extends [boolean]
  ? "flag"
  : [Value] extends [(...given: never[]) => unknown]
    ? "function"
    : [Value] extends [AbortSignal]
      ? "signal"
      : [Value] extends [string]
        ? "text"
        : [Value] extends [number]
          ? NumberKind | "any"
          : "any";

/** All options by name; one that is missing, left over or of another kind does not compile. */
export type OptionKinds<Options> = {
  readonly [Name in keyof Required<Options>]: KindOf<NonNullable<Options[Name]>>;
};

const IS: Readonly<Record<OptionKind, (value: unknown) => boolean>> = {
  flag: (value) => typeof value === "boolean",
  function: (value) => typeof value === "function",
  // Of any realm, and of any polyfill.
  signal: (value) => typeof (value as Partial<AbortSignal> | null)?.throwIfAborted === "function",
  text: (value) => typeof value === "string",
  number: (value) => typeof value === "number" && !Number.isNaN(value),
  amount: (value) => typeof value === "number" && value >= 0,
  count: (value) => isWhole(value) && value >= 0,
  positive: (value) => isWhole(value) && value >= 1,
  any: () => true,
};
const MUST_BE: Readonly<Record<OptionKind, string>> = {
  flag: "true or false",
  function: "a function",
  signal: "an AbortSignal",
  text: "a string",
  number: "a number",
  amount: "a number from 0",
  count: "a whole number from 0",
  positive: "a whole number from 1",
  any: "",
};

/** Or without an end. */
function isWhole(value: unknown): value is number {
  return Number.isSafeInteger(value) || value === Number.POSITIVE_INFINITY;
}

/** Throws a `TypeError` for an option that is not among `kinds`, or is of another kind. */
export function checkOptions(
  call: string,
  options: object,
  kinds: Readonly<Record<string, OptionKind>>,
): void {
  const there = Object.keys(kinds).join(", ") || "none";
  if (typeof options !== "object" || options === null) {
    throw new TypeError(`${call} takes an object of options; there are ${there}`);
  }
  for (const name of Object.keys(options)) {
    const value: unknown = options[name as keyof typeof options];
    const kind = Object.hasOwn(kinds, name) ? kinds[name] : undefined;
    if (kind === undefined) {
      throw new TypeError(`${call} has no option ${name}; there are ${there}`);
    }
    if (value === undefined || IS[kind](value)) continue;
    throw new TypeError(`${call}: ${name} must be ${MUST_BE[kind]}`);
  }
}

/**
 * Throws a `TypeError` for what is no open storage (a directory, a backend, a promise not awaited), and for
 * one without the model.
 */
export function checkStorage(call: string, storage: unknown, model?: string): void {
  const { append, models } = (storage ?? {}) as { readonly append?: unknown; readonly models?: unknown };
  if (typeof append !== "function")
    throw new TypeError(`${call} wants an open storage: await DocumentStorage.open({ backend, models })`);
  if (model === undefined || !Array.isArray(models) || models.includes(model)) return;
  const has = models.join(", ");
  throw new TypeError(`${call} wants a storage with the ${model} model; this one has ${has}`);
}
