/**
 * Where segments stand in the order of replay, as a number that their headers keep: so the order is known
 * without a manifest too.
 *
 * A log segment stands at the number of the last commit before it. What a merge writes stands between its
 * first source and the segment that comes after the sources, also in fractions of a commit number: a rank is
 * 2³² times a commit number, and has the fraction below that. The segments of one merge share the room
 * according to their bytes. A log segment has room for 2³² of them, at most four times its bytes, and merging
 * adds no bytes: so nothing ever runs out of room, however often it is merged.
 *
 * Invariant: in the order of the manifest each rank that is known is above all before it, but where the
 * segment before it has no frames.
 */

const FRACTION_BITS = 32n;
const FRACTION_MASK = (1n << FRACTION_BITS) - 1n;

export function rankOf(sequence: number, fraction = 0): bigint {
  return (BigInt(sequence) << FRACTION_BITS) | BigInt(fraction);
}

export function partsOfRank(rank: bigint): { readonly sequence: number; readonly fraction: number } {
  return { sequence: Number(rank >> FRACTION_BITS), fraction: Number(rank & FRACTION_MASK) };
}

/** From `from` on and below `to`, ascending, for segments of so many bytes; `undefined`: there is no room. */
export function ranksBetween(from: bigint, to: bigint, bytes: readonly number[]): bigint[] | undefined {
  const room = to - from;
  const count = bytes.length;
  if (room < count) return undefined;
  const total = BigInt(bytes.reduce((sum, each) => sum + each, 0));
  let before = 0n;
  let next = from;
  return bytes.map((each, i) => {
    const fair = from + (room * before) / total;
    const last = to - BigInt(count - i);
    const rank = fair < next ? next : fair > last ? last : fair;
    before += BigInt(each);
    next = rank + 1n;
    return rank;
  });
}
