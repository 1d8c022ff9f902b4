/**
 * Kills the server as `kill -9` does, and reports: what was durable and what pending at that moment, how
 * long the server was away, and whether both people and the disk have the same text once it is back.
 *
 * It claims nothing that it has not read: the text of the disk is asked of the new process.
 */

import { useEffect, useRef, useState } from "preact/hooks";
import { type ApiError, api } from "./api.js";
import type { Keystroke, Person } from "./editor.js";
import type { Live } from "./figures.js";
import { asApiError } from "./hooks.js";
import { Failure } from "./parts.js";
import { count, counted, duration } from "./words.js";

interface Report {
  readonly killedAt: number;
  readonly durable: number;
  readonly pending: number;
  readonly backMs?: number;
  readonly verdict?: { readonly same: boolean; readonly keystrokes: number; readonly characters: number };
}

/** Texts that differ for so long do differ. */
const VERIFY_MS_MAX = 15_000;

export function Kill(props: {
  readonly people: readonly Person[];
  readonly keystrokes: readonly Keystroke[];
  readonly live: Live;
  readonly stored: () => Promise<string>;
}) {
  const { people, keystrokes, stored } = props;
  const [report, setReport] = useState<Report>();
  const [error, setError] = useState<ApiError>();
  const watching = useRef(0);
  useEffect(() => () => void watching.current++, []);
  const kill = async () => {
    const run = ++watching.current;
    const isCurrent = () => watching.current === run;
    const pending = keystrokes.filter(({ durableMs }) => durableMs === undefined).length;
    const killedAt = performance.now();
    setError(undefined);
    setReport({ killedAt, pending, durable: keystrokes.length - pending });
    try {
      await api.kill().catch(refuseAllButSilence);
      await until(() => people.some((person) => !person.provider.wsconnected), isCurrent);
      await until(() => people.every((person) => person.provider.synced), isCurrent);
      if (!isCurrent()) return;
      const backMs = performance.now() - killedAt;
      setReport((before) => before && { ...before, backMs });
      const verdict = await verify(people, keystrokes, stored, isCurrent);
      if (isCurrent()) setReport((before) => before && { ...before, verdict });
    } catch (failure) {
      if (!isCurrent()) return;
      setReport(undefined);
      setError(asApiError(failure));
    }
  };
  return (
    <section class="panel kill" aria-label="Kill the server">
      <header class="row">
        <div>
          <h2>Kill the server</h2>
          <p class="quiet">
            SIGKILL: nothing is closed, nothing is flushed. Its supervisor starts it again; go on typing
            meanwhile.
          </p>
        </div>
        <span class="spacer" />
        <button type="button" class="danger" onClick={() => void kill()}>
          Kill the server
        </button>
      </header>
      {error !== undefined && <Failure error={error} />}
      {report !== undefined && <Story report={report} />}
    </section>
  );
}

function Story({ report: { durable, pending, backMs, verdict } }: { report: Report }) {
  return (
    <ol class="story" aria-live="polite">
      <li class="bad">
        killed with {counted(durable, "keystroke")} durable and {count(pending)} pending
      </li>
      <li class={backMs === undefined ? "warn" : "good"}>
        {backMs === undefined ? "away …" : `back and synced after ${duration(backMs)}`}
      </li>
      {backMs !== undefined && (
        <li
          class={verdict === undefined ? "warn" : verdict.same ? "good" : "bad"}
          data-verdict={verdict?.same}
        >
          {told(verdict)}
        </li>
      )}
    </ol>
  );
}

function told(verdict: Report["verdict"]): string {
  if (verdict === undefined) return "comparing both people with the disk …";
  if (!verdict.same) return "the texts differ";
  const [typed, length] = [
    counted(verdict.keystrokes, "keystroke"),
    counted(verdict.characters, "character"),
  ];
  return `nothing lost: ${typed} durable, and both people and the disk have the same ${length}`;
}

/** Everybody may be typing: the comparison holds when it found a moment at which nobody did. */
async function verify(
  people: readonly Person[],
  keystrokes: readonly Keystroke[],
  stored: () => Promise<string>,
  isCurrent: () => boolean,
): Promise<NonNullable<Report["verdict"]>> {
  const deadline = performance.now() + VERIFY_MS_MAX;
  for (;;) {
    await Promise.all(people.map((person) => person.settled()));
    const before = people.map(({ text }) => text.toString());
    const onDisk = await stored();
    const after = people.map(({ text }) => text.toString());
    const isStill = before.every((text, index) => text === after[index]);
    const isSame = after.every((text) => text === onDisk);
    if ((isStill && isSame) || !isCurrent() || performance.now() > deadline)
      return { same: isSame, keystrokes: keystrokes.length, characters: onDisk.length };
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function until(holds: () => boolean, isCurrent: () => boolean): Promise<void> {
  while (!holds() && isCurrent()) await new Promise((resolve) => setTimeout(resolve, 10));
}

/** A server that was killed does not answer. */
function refuseAllButSilence(error: unknown): void {
  if (asApiError(error).code !== "UNREACHABLE") throw error;
}
