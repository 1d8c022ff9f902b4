/**
 * The difference of two texts as runs that were kept, removed and added, for people to read.
 *
 * Words are compared, not characters, so that a run is something one can read; after Myers, "An O(ND)
 * difference algorithm and its variations" (1986). Two texts that differ in more than `EDITS_MAX` words are
 * shown as one replacement between what they have in common at both ends: a reader would see no more in the
 * shreds.
 *
 * Invariant: kept and removed runs together are the first text, kept and added ones the second.
 */

export interface Run {
  readonly kind: "kept" | "removed" | "added";
  readonly text: string;
}

const EDITS_MAX = 1_500;

export function differenceOf(before: string, after: string): Run[] {
  const [from, to] = [words(before), words(after)];
  let start = 0;
  while (start < from.length && start < to.length && from[start] === to[start]) start++;
  let end = 0;
  while (
    end < from.length - start &&
    end < to.length - start &&
    from[from.length - 1 - end] === to[to.length - 1 - end]
  )
    end++;
  const middle = [from.slice(start, from.length - end), to.slice(start, to.length - end)] as const;
  const runs: Run[] = [{ kind: "kept", text: from.slice(0, start).join("") }];
  runs.push(...(shortest(...middle) ?? replacement(...middle)));
  runs.push({ kind: "kept", text: from.slice(from.length - end).join("") });
  return joined(runs);
}

function words(text: string): string[] {
  return text.match(/[\p{L}\p{N}_]+|\s|[^\p{L}\p{N}_\s]/gu) ?? [];
}

function replacement(from: readonly string[], to: readonly string[]): Run[] {
  return [
    { kind: "removed", text: from.join("") },
    { kind: "added", text: to.join("") },
  ];
}

/** `undefined` when it would take too many edits. */
function shortest(from: readonly string[], to: readonly string[]): Run[] | undefined {
  const reach = Math.min(from.length + to.length, EDITS_MAX);
  const furthest = new Int32Array(2 * reach + 3);
  const middle = reach + 1;
  const trace: Int32Array[] = [];
  for (let edits = 0; edits <= reach; edits++) {
    trace.push(furthest.slice(middle - edits - 1, middle + edits + 2));
    for (let line = -edits; line <= edits; line += 2) {
      const down =
        line === -edits ||
        (line !== edits && at(furthest, middle + line - 1) < at(furthest, middle + line + 1));
      let x = down ? at(furthest, middle + line + 1) : at(furthest, middle + line - 1) + 1;
      let y = x - line;
      while (x < from.length && y < to.length && from[x] === to[y]) {
        x++;
        y++;
      }
      furthest[middle + line] = x;
      if (x >= from.length && y >= to.length) return backwards(from, to, trace);
    }
  }
  return undefined;
}

function backwards(from: readonly string[], to: readonly string[], trace: readonly Int32Array[]): Run[] {
  const runs: Run[] = [];
  let [x, y] = [from.length, to.length];
  for (let edits = trace.length - 1; edits >= 0; edits--) {
    const furthest = trace[edits]!;
    const middle = edits + 1;
    const line = x - y;
    const down =
      line === -edits ||
      (line !== edits && at(furthest, middle + line - 1) < at(furthest, middle + line + 1));
    const previousLine = down ? line + 1 : line - 1;
    const previousX = edits === 0 ? 0 : at(furthest, middle + previousLine);
    const previousY = edits === 0 ? 0 : previousX - previousLine;
    while (x > previousX && y > previousY && x > 0 && y > 0) {
      runs.push({ kind: "kept", text: from[--x]! });
      y--;
    }
    if (edits === 0) break;
    if (down) runs.push({ kind: "added", text: to[--y]! });
    else runs.push({ kind: "removed", text: from[--x]! });
  }
  return runs.reverse();
}

function at(values: Int32Array, index: number): number {
  return values[index] ?? 0;
}

/** Neighbours of one kind become one; between two kept runs, what was removed comes before what was added. */
function joined(runs: readonly Run[]): Run[] {
  const result: Run[] = [];
  let removed = "";
  let added = "";
  const flush = () => {
    if (removed !== "") result.push({ kind: "removed", text: removed });
    if (added !== "") result.push({ kind: "added", text: added });
    removed = "";
    added = "";
  };
  for (const { kind, text } of runs) {
    if (text === "") continue;
    if (kind === "removed") removed += text;
    else if (kind === "added") added += text;
    else {
      flush();
      const last = result.at(-1);
      if (last?.kind === "kept") result[result.length - 1] = { kind, text: last.text + text };
      else result.push({ kind, text });
    }
  }
  flush();
  return result;
}
