/**
 * What can be done with a document: snapshot, compact, tag, fork, download, export. Each says what came
 * of it.
 *
 * One thing is done at a time. What takes long can be cancelled, and is when the view is left.
 */

import type { DocumentAnswer } from "@coppice/server/client";
import { useEffect, useRef, useState } from "preact/hooks";
import { type ApiError, api } from "./api.js";
import { Compacted, type Compaction, CompactionSteps, compact } from "./compaction.js";
import { type Action, asApiError, linkTo } from "./hooks.js";
import { Ask, Failure, useFocusBack, withFocus, withFocusBack } from "./parts.js";
import { bytes, count, counted } from "./words.js";

interface Props {
  readonly id: string;
  readonly facts: DocumentAnswer;
  /** The clock that is travelled to; `undefined`: now. */
  readonly at: number | undefined;
  readonly allows: (action: Action) => boolean;
  readonly onChange: () => void;
}

/** The browser reads the bytes after the click. */
const REVOKE_MS = 10_000;

const LOOKING = "looking what would go";
const EXPORTING = "exporting";

interface Loss {
  /** The oldest version that stays. */
  readonly clock: number;
  readonly events: number;
}

interface Said {
  readonly text: string;
  readonly link?: { readonly href: string; readonly name: string };
}

export function Actions(props: Props) {
  const { id, allows, onChange } = props;
  const [asked, setAsked] = useState<Loss>();
  const [running, setRunning] = useState<string>();
  const [said, setSaid] = useState<Said>();
  const [error, setError] = useState<ApiError>();
  const [compaction, setCompaction] = useState<Compaction>();
  const stop = useRef<AbortController | undefined>(undefined);
  useEffect(() => () => stop.current?.abort(), []);
  const act: Act = async (name, work) => {
    setRunning(name);
    setError(undefined);
    setSaid(undefined);
    setCompaction(undefined);
    setAsked(undefined);
    try {
      setSaid(await work());
    } catch (failure) {
      setError(asApiError(failure));
    }
    setRunning(undefined);
    onChange();
  };
  const cancellable: Cancellable = async (work, otherwise) => {
    stop.current = new AbortController();
    const { signal } = stop.current;
    try {
      return await work(signal);
    } catch (failure) {
      setCompaction(undefined);
      if (!signal.aborted) throw failure;
      return { text: otherwise };
    }
  };
  const compactNow = () =>
    act("compacting", () =>
      cancellable((signal) => {
        setCompaction({ sizes: undefined, result: undefined, step: undefined });
        return compact(id, setCompaction, signal).then(() => undefined);
      }, "cancelled: nothing is lost; it is as before, or compacted where that had just ended"),
    );
  const askFirst = async () => {
    let loss: Loss | undefined;
    await act(LOOKING, () =>
      cancellable(async (signal) => {
        loss = await lossOf(id, signal);
        return undefined;
      }, "cancelled"),
    );
    if (loss === undefined) return;
    if (loss.events > 0) setAsked(loss);
    else await compactNow();
  };
  const busy = running !== undefined;
  const isOwner = allows("admin");
  const remember = useFocusBack(!busy && asked === undefined);
  return (
    <div class="actions">
      <div class="row" onClickCapture={remember}>
        <button
          type="button"
          disabled={busy || !isOwner}
          onClick={() => void act("taking a snapshot", () => snapshot(id))}
        >
          Snapshot
        </button>
        <button type="button" disabled={busy || !isOwner} onClick={() => void askFirst()}>
          Compact
        </button>
        <OfVersion {...props} busy={busy} act={act} cancellable={cancellable} />
        {busy && compaction === undefined && (
          <span class="quiet" role="status">
            <progress aria-label={running} /> {running} …
          </span>
        )}
        {(running === LOOKING || running === EXPORTING) && (
          <button type="button" onClick={() => stop.current?.abort()}>
            Cancel
          </button>
        )}
      </div>
      {!isOwner && (
        <p class="quiet after">
          This token allows {allows("write") ? "reading and writing" : "reading"} here: snapshots and
          compactions need the action admin.
        </p>
      )}
      {asked !== undefined && (
        <Ask
          question={questionOf(asked)}
          verb={`Trim ${counted(asked.events, "event")}`}
          onYes={() => void compactNow()}
          onNo={() => setAsked(undefined)}
        />
      )}
      {error !== undefined && <Failure error={error} />}
      {compaction !== undefined &&
        (compaction.result === undefined ? (
          <CompactionSteps step={compaction.step} onCancel={() => stop.current?.abort()} />
        ) : (
          <Compacted compaction={compaction} result={compaction.result} />
        ))}
      {said !== undefined && (
        <p class="notice good" role="status">
          {said.text} {said.link !== undefined && <a href={said.link.href}>{said.link.name}</a>}
        </p>
      )}
    </div>
  );
}

type Act = (name: string, work: () => Promise<Said | undefined>) => Promise<void>;
type Cancellable = (
  work: (signal: AbortSignal) => Promise<Said | undefined>,
  otherwise: string,
) => Promise<Said | undefined>;

/** What is done with the version that is looked at. */
function OfVersion({
  id,
  facts,
  at,
  allows,
  busy,
  act,
  cancellable,
}: Props & { readonly busy: boolean; readonly act: Act; readonly cancellable: Cancellable }) {
  const where = at === undefined ? "now" : `at clock ${count(at)}`;
  const tag = (name: string) =>
    act("tagging", async () => {
      const clock = at ?? facts.clock;
      await api.tag(id, name, clock);
      return { text: `“${name}” names the version at clock ${count(clock)}` };
    });
  const fork = (to: string) =>
    act("forking", async () => {
      const { clock } = await api.fork(id, to, at);
      return {
        text: `forked at clock ${count(clock)}:`,
        link: { href: linkTo("documents", to), name: to },
      };
    });
  return (
    <>
      <Named
        verb="Tag"
        what="name of the version"
        where={where}
        busy={busy || !allows("write")}
        onName={tag}
      />
      <Named verb="Fork" what="id of the new document" where={where} busy={busy} onName={fork} />
      {facts.model === "yjs" && (
        <button
          type="button"
          disabled={busy}
          title={`the document ${where}, as one Yjs update`}
          onClick={() => void act("downloading", () => download(id, at))}
        >
          Download
        </button>
      )}
      <button
        type="button"
        disabled={busy}
        title={`the document ${where} with its history, as a file for Import`}
        onClick={() =>
          void act(EXPORTING, () => cancellable((signal) => exportTo(id, at, signal), "cancelled"))
        }
      >
        Export
      </button>
    </>
  );
}

/** A button that asks for a name first. */
function Named(props: {
  readonly verb: string;
  readonly what: string;
  readonly where: string;
  readonly busy: boolean;
  readonly onName: (name: string) => Promise<void>;
}) {
  const [isOpen, setIsOpen] = useState(false);
  const [name, setName] = useState("");
  const wasOpen = useRef(false);
  if (!isOpen)
    return (
      <button
        type="button"
        ref={wasOpen.current ? withFocusBack : null}
        disabled={props.busy}
        onClick={() => setIsOpen(true)}
      >
        {props.verb} …
      </button>
    );
  const close = () => {
    wasOpen.current = true;
    setIsOpen(false);
    setName("");
  };
  const enter = (event: Event) => {
    event.preventDefault();
    void props.onName(name.trim()).then(close);
  };
  return (
    <form class="row named" onSubmit={enter} onKeyDown={(event) => event.key === "Escape" && close()}>
      <input
        ref={withFocus}
        required
        size={20}
        placeholder={props.what}
        aria-label={props.what}
        value={name}
        onInput={(event) => setName(event.currentTarget.value)}
      />
      <button type="submit" class="primary" disabled={props.busy}>
        {props.verb} {props.where}
      </button>
      <button type="button" onClick={close}>
        Cancel
      </button>
    </form>
  );
}

function questionOf({ clock }: Loss): string {
  return `Versions before clock ${count(clock)} will be gone for good, except tagged ones.`;
}

/** What a compaction would do away with. */
async function lossOf(id: string, signal: AbortSignal): Promise<Loss> {
  const { oldestClock } = await api.document(id, signal);
  const { eventsTrimmed, eventsArchived } = await api.wouldCompact(id, signal);
  return { clock: oldestClock + eventsTrimmed, events: eventsTrimmed - eventsArchived };
}

async function snapshot(id: string): Promise<Said> {
  const { clock } = await api.snapshot(id);
  return {
    text:
      clock === null ? "the newest snapshot covers everything" : `snapshot taken at clock ${count(clock)}`,
  };
}

async function download(id: string, at: number | undefined): Promise<Said> {
  const blob = await api.state(id, at);
  keep(blob, id, "update");
  return { text: `${bytes(blob.size)}, for Y.applyUpdate` };
}

async function exportTo(id: string, at: number | undefined, signal: AbortSignal): Promise<Said> {
  const blob = await api.export(id, at, signal);
  keep(blob, id, "coppice");
  return { text: `${bytes(blob.size)}, for Import on this page, or coppice import document` };
}

function keep(blob: Blob, id: string, kind: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${id.replaceAll(/[^\w.-]+/g, "-")}.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), REVOKE_MS);
}
