/**
 * Refuses options that there are not: a misspelt one would else be ignored, and `dryrun` trims in earnest.
 *
 * It looks at names alone; what values are good, each call knows.
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
