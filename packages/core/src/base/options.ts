/**
 * Refuses options that there are not: a misspelt one would else be ignored, and `dryrun` trims in earnest.
 *
 * It looks at names alone; what values are good, each call knows. And what is handed over as a storage is
 * looked at here, for those that are built on one.
 */

/** The names of all options; one that is missing or left over does not compile. */
export type OptionNames<Options> = Readonly<Record<keyof Required<Options>, true>>;

/** Throws a `TypeError` for an option that is not among `names`. */
export function checkOptions(call: string, options: object, names: Readonly<Record<string, true>>): void {
  for (const name of Object.keys(options)) {
    if (Object.hasOwn(names, name)) continue;
    throw new TypeError(`${call} has no option ${name}; there are ${Object.keys(names).join(", ")}`);
  }
}

/** Throws a `TypeError` for what is no open storage: a directory, a backend, or a promise not awaited. */
export function checkStorage(call: string, storage: unknown): void {
  if (typeof (storage as { readonly append?: unknown } | null | undefined)?.append === "function") return;
  throw new TypeError(`${call} wants an open storage: await DocumentStorage.open({ backend, models })`);
}
