/**
 * Try it: two people in one document, side by side, and what becomes of each keystroke; where a supervisor
 * starts the server again, also what becomes of them when it is killed.
 */

import { useEffect, useMemo, useReducer, useRef, useState } from "preact/hooks";
import { api } from "./api.js";
import { type Colours, type Keystroke, Person, type Refusal, TEXT_NAME } from "./editor.js";
import type { Live, Locked } from "./figures.js";
import { linkTo, useAllowed, usePolled } from "./hooks.js";
import { Kill } from "./kill.js";
import { Pane } from "./pane.js";
import { Strip } from "./strip.js";
import { TokenForm } from "./token.js";

const COLOURS: readonly Colours[] = [
  { color: "#2f8f5b", colorLight: "#2f8f5b33" },
  { color: "#b0682f", colorLight: "#b0682f33" },
];
const NAMES = ["Ann", "Ben"] as const;
const KEYSTROKES_MAX = 5_000;
const TYPING_MS = 45;
/** Close codes of the server. */
const NO_YJS = 4415;
const ONLY_YJS = "only Yjs documents can be edited here";
const NO_TOKEN: readonly number[] = [4401, 4403];
const SENTENCE = "Cut back to the stump, a tree grows again; cut back to a snapshot, so does a document. ";

export function TryView({ id, live }: { id: string; live: Live }) {
  const { people, keystrokes } = usePeople(id);
  const refusal = people.find(({ facts }) => facts.refusal !== undefined)?.facts.refusal;
  const isReader = !useAllowed(id)("write");
  const mayWrite = !isReader && refusal === undefined;
  const [isTyping, setIsTyping] = useTyping(people, mayWrite);
  // What somebody has typed stays in sight, though nobody takes it any more.
  const isEmpty = people.every(({ text }) => text.length === 0);
  const supervisor = usePolled("supervisor", 60_000, (signal) => api.supervisor(signal));
  return (
    <section>
      <div class="heading">
        <h1>Try it</h1>
        <p class="quiet">
          two people in <a href={linkTo("documents", id)}>{id}</a>, each with a connection of their own
        </p>
        <span class="spacer" />
        <Open id={id} />
        <button
          type="button"
          aria-pressed={isTyping}
          disabled={!mayWrite}
          onClick={() => setIsTyping(!isTyping)}
        >
          {isTyping ? "Stop typing" : "Type for me"}
        </button>
      </div>
      {refusal !== undefined && <Refused id={id} refusal={refusal} locked={live.locked} />}
      {refusal === undefined && isReader && (
        <p class="notice steps">This token does not allow editing here: what others type is shown.</p>
      )}
      {(refusal === undefined || !isEmpty) && (
        <>
          <div class="panes">
            {people.map((person) => (
              <Pane key={person.name} person={person} facts={person.facts} mayWrite={mayWrite} />
            ))}
          </div>
          <Strip keystrokes={keystrokes} />
        </>
      )}
      {supervisor.value?.supervised === true && refusal === undefined && (
        <Kill people={people} keystrokes={keystrokes} live={live} stored={() => storedText(id)} />
      )}
    </section>
  );
}

/** Why nobody can edit here, and what would help. */
function Refused(props: { readonly id: string; readonly refusal: Refusal; readonly locked: Locked }) {
  const { id, refusal, locked } = props;
  const facts = usePolled(`model ${id}`, 3_600_000, (signal) =>
    refusal.code === NO_YJS ? api.document(id, signal) : Promise.resolve(undefined),
  );
  const model = facts.value?.model;
  return (
    <>
      <p class="notice bad" role="alert">
        {refusal.code === NO_YJS
          ? `${id} is of ${model === undefined ? "another model" : `the model ${model}`}; ${ONLY_YJS}`
          : `The server has closed the connections for good: ${refusal.reason} (${refusal.code}).`}
      </p>
      {NO_TOKEN.includes(refusal.code) && locked !== "no" && <TokenForm why={locked} />}
    </>
  );
}

/** Two people, for as long as the view is there; drawn at most once a frame. */
function usePeople(id: string): { people: readonly Person[]; keystrokes: readonly Keystroke[] } {
  const [, redraw] = useReducer((round: number) => round + 1, 0);
  const keystrokes = useRef<Keystroke[]>([]);
  const frame = useRef(0);
  const people = useMemo(() => {
    let number = 0;
    const onChange = () => {
      if (frame.current === 0)
        frame.current = requestAnimationFrame(() => {
          frame.current = 0;
          redraw(undefined);
        });
    };
    const onKeystroke = (keystroke: Keystroke) => {
      keystrokes.current.push(keystroke);
      if (keystrokes.current.length > KEYSTROKES_MAX) keystrokes.current.shift();
    };
    const next = () => number++;
    return NAMES.map(
      (name, index) => new Person({ id, name, colours: COLOURS[index]!, next, onKeystroke, onChange }),
    );
  }, [id]);
  useEffect(
    () => () => {
      cancelAnimationFrame(frame.current);
      for (const person of people) person.close();
    },
    [people],
  );
  return { people, keystrokes: keystrokes.current };
}

/** Both type, each at an end of the text. */
function useTyping(people: readonly Person[], mayWrite: boolean): [boolean, (isTyping: boolean) => void] {
  const [isWanted, setIsTyping] = useState(false);
  const isTyping = isWanted && mayWrite;
  useEffect(() => {
    if (!isTyping) return;
    let at = 0;
    const timer = window.setInterval(() => {
      const person = people[at % people.length]!;
      const letter = SENTENCE[Math.floor(at / people.length) % SENTENCE.length]!;
      person.text.insert(
        at % people.length === 0 ? person.text.length : Math.floor(at / people.length),
        letter,
      );
      at++;
    }, TYPING_MS);
    return () => window.clearInterval(timer);
  }, [isTyping, people]);
  return [isTyping, setIsTyping];
}

function Open({ id }: { id: string }) {
  const [other, setOther] = useState("");
  const open = (event: Event) => {
    event.preventDefault();
    if (other.trim() !== "" && other !== id) location.hash = linkTo("try", other.trim());
  };
  return (
    <form class="row" onSubmit={open}>
      <input
        aria-label="Another document"
        placeholder="another document"
        size={16}
        value={other}
        onInput={(event) => setOther(event.currentTarget.value)}
      />
      <button type="submit">Open</button>
    </form>
  );
}

async function storedText(id: string): Promise<string> {
  const { parts } = await api.content(id, undefined);
  return parts.find(({ name }) => name === TEXT_NAME)?.text ?? "";
}
