/**
 * Bringing in an exported document: a file, and the id that it gets, which a copy needs another of.
 *
 * The server takes it whole or not at all, and never in the place of another document; under the id of a
 * deleted one only when it is told so once more. Leaving the view cancels it.
 */

import { useEffect, useRef, useState } from "preact/hooks";
import { type ApiError, api } from "./api.js";
import { asApiError, linkTo, useAllowed } from "./hooks.js";
import { Failure, withFocus, withFocusBack } from "./parts.js";
import { count } from "./words.js";

/** The id is one that was deleted. */
const DELETED = "DELETED";
const WORDS = { imported: "imported", unchanged: "was here already, exactly like this" } as const;

export function Import() {
  const allows = useAllowed(undefined);
  const input = useRef<HTMLInputElement>(null);
  const stop = useRef<AbortController | undefined>(undefined);
  const [file, setFile] = useState<File>();
  const [id, setId] = useState("");
  const [isRunning, setIsRunning] = useState(false);
  const [error, setError] = useState<ApiError>();
  const [done, setDone] = useState<{ readonly id: string; readonly text: string }>();
  useEffect(() => () => stop.current?.abort(), []);
  const wasOpen = useRef(false);
  const choose = (chosen: File | undefined) => {
    wasOpen.current = chosen === undefined;
    setDone(undefined);
    setError(undefined);
    setFile(chosen);
    setId(chosen?.name.replace(/\.coppice$/, "") ?? "");
    // The same file may be chosen again.
    if (chosen === undefined && input.current !== null) input.current.value = "";
  };
  const bring = async (event: Event) => {
    event.preventDefault();
    if (file === undefined) return;
    stop.current = new AbortController();
    const { signal } = stop.current;
    const recreate = error?.code === DELETED;
    setError(undefined);
    setIsRunning(true);
    try {
      const { clock, outcome } = await api.import(id, file, recreate, signal);
      choose(undefined);
      setDone({ id, text: `${WORDS[outcome]}, at clock ${count(clock)}` });
    } catch (failure) {
      if (!signal.aborted) setError(asApiError(failure));
    }
    setIsRunning(false);
  };
  return (
    <div class="import">
      <input
        ref={input}
        hidden
        type="file"
        accept=".coppice"
        onChange={(event) => choose(event.currentTarget.files?.[0])}
      />
      {file === undefined ? (
        <button
          type="button"
          ref={wasOpen.current ? withFocusBack : null}
          disabled={!allows("write")}
          onClick={() => input.current?.click()}
        >
          Import …
        </button>
      ) : (
        <form class="row" onSubmit={(event) => void bring(event)}>
          <input
            ref={withFocus}
            required
            size={20}
            aria-label="id of the imported document"
            value={id}
            disabled={isRunning}
            onInput={(event) => {
              setError(undefined);
              setId(event.currentTarget.value);
            }}
          />
          <button type="submit" class="primary" disabled={isRunning}>
            {error?.code === DELETED ? "Recreate" : "Import"}
          </button>
          <button type="button" onClick={() => (isRunning ? stop.current?.abort() : choose(undefined))}>
            Cancel
          </button>
          {isRunning && <progress aria-label="importing" />}
        </form>
      )}
      {error !== undefined && <Failure error={error} />}
      {done !== undefined && (
        <p class="notice good" role="status">
          <a href={linkTo("documents", done.id)}>{done.id}</a> {done.text}
        </p>
      )}
    </div>
  );
}
