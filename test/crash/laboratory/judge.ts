/**
 * Opens a store that something was done to, and holds it to what its callers were told
 * (`children/numbering.ts`).
 *
 * Each caller has a document of its own and one event in flight, so what is there must be the events 1 … n,
 * with n at least what was acknowledged and at most one more.
 */

import { type CoppiceError, isCoppiceError } from "coppice";
import type { NameSet } from "../../support/oracle-model.js";
import { type BackendName, openStore } from "./stores.js";

/** By caller: the number of the last event that was acknowledged. */
export type Told = ReadonlyMap<number, number>;

export interface Verdict {
  /**
   * `sound`: everything acknowledged is there. `lost`: it is not, and nobody noticed. `wrong`: something
   * else is there. `refused`: opening or reading told of damage. `unavailable`: any other failure.
   */
  readonly kind: "sound" | "lost" | "wrong" | "refused" | "unavailable";
  readonly why: string;
}

export const SOUND: Verdict = { kind: "sound", why: "" };

/** `more`: how many events beyond the acknowledged may be there; one of each caller is in flight. */
export async function judge(
  backend: BackendName,
  location: string,
  told: Told,
  { more = 1 }: { readonly more?: number } = {},
): Promise<Verdict> {
  try {
    const storage = await openStore(backend, location);
    try {
      for (const [caller, acknowledged] of told) {
        const handle = await storage.load<NameSet>(`names-${caller}`);
        const numbers = [...(handle?.doc.names.keys() ?? [])].map((name) => Number.parseInt(name, 10));
        numbers.sort((a, b) => a - b);
        const verdict = compare(caller, numbers, acknowledged, more);
        if (verdict !== undefined) return verdict;
        if ((handle?.clock ?? 0) !== numbers.length) {
          return {
            kind: "wrong",
            why: `caller ${caller}: clock ${handle?.clock} of ${numbers.length} events`,
          };
        }
        await handle?.close();
      }
      const { problems } = await storage.check();
      if (problems.length > 0)
        return { kind: "refused", why: `check: ${problems[0]!.code}: ${problems[0]!.message}` };
      return SOUND;
    } finally {
      await storage.close().catch(() => undefined);
    }
  } catch (error) {
    if (!isCoppiceError(error)) throw error;
    return { kind: error.kind === "corrupt" ? "refused" : "unavailable", why: reason(error) };
  }
}

function compare(
  caller: number,
  numbers: readonly number[],
  acknowledged: number,
  more: number,
): Verdict | undefined {
  const whole = numbers.every((number, index) => number === index + 1);
  if (!whole) return { kind: "wrong", why: `caller ${caller} has the events ${brief(numbers)}` };
  if (numbers.length < acknowledged) {
    return {
      kind: "lost",
      why: `caller ${caller} has ${numbers.length} of ${acknowledged} acknowledged events`,
    };
  }
  if (numbers.length > acknowledged + more) {
    return {
      kind: "wrong",
      why: `caller ${caller} has ${numbers.length} events, of ${acknowledged} acknowledged`,
    };
  }
  return undefined;
}

function brief(numbers: readonly number[]): string {
  const gap = numbers.findIndex((number, index) => number !== index + 1);
  return `… ${numbers.slice(Math.max(0, gap - 2), gap + 3).join(" ")} …`;
}

function reason(error: CoppiceError): string {
  let root: unknown = error.cause;
  while (root instanceof Error && root.cause instanceof Error) root = root.cause;
  return root instanceof Error ? `${error.message} (${root.message})` : error.message;
}

/** What the lines of a process say was acknowledged. */
export function toldBy(lines: string): {
  readonly opened: boolean;
  readonly told: Map<number, number>;
  failed?: string;
} {
  const told = new Map<number, number>();
  let opened = false;
  let failed: string | undefined;
  for (const line of lines.split("\n")) {
    const [word, caller, number] = line.split(" ");
    if (word === "OPEN") opened = true;
    if (word === "ACK" && number !== undefined) told.set(Number(caller), Number(number));
    if (word === "FAILED") failed = caller;
  }
  return failed === undefined ? { opened, told } : { opened, told, failed };
}
