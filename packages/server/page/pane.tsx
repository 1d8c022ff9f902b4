/**
 * An editor on the text of one person, by CodeMirror, with the cursors of the others.
 *
 * It lives as long as the person. What is typed goes straight into the Yjs text, and never through this
 * component, which only shows what the connection is like.
 */

import { defaultKeymap } from "@codemirror/commands";
import { EditorState } from "@codemirror/state";
import { drawSelection, EditorView, keymap, placeholder } from "@codemirror/view";
import { useEffect, useRef } from "preact/hooks";
import { yCollab, yUndoManagerKeymap } from "y-codemirror.next";
import type { Person, PersonFacts } from "./editor.js";
import { count } from "./words.js";

export function Pane(props: {
  readonly person: Person;
  readonly facts: PersonFacts;
  readonly mayWrite: boolean;
}) {
  const { person, facts, mayWrite } = props;
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const view = new EditorView({
      parent: place.current!,
      state: EditorState.create({
        doc: person.text.toString(),
        extensions: [
          drawSelection(),
          EditorView.lineWrapping,
          EditorState.readOnly.of(!mayWrite),
          placeholder(mayWrite ? "Type here …" : ""),
          EditorView.contentAttributes.of({ "aria-label": `Text of ${person.name}` }),
          keymap.of([...yUndoManagerKeymap, ...defaultKeymap]),
          yCollab(person.text, person.provider.awareness, { undoManager: person.undo }),
        ],
      }),
    });
    return () => view.destroy();
  }, [person, mayWrite]);
  const { pending, clock } = facts;
  const [state, words] = stateOf(facts, mayWrite);
  return (
    <section class="pane" aria-label={person.name} data-person={person.name}>
      <header>
        <h2>{person.name}</h2>
        <span class="quiet">
          <span class={`dot ${state}`} aria-hidden="true" /> {words}
        </span>
        <span class="spacer" />
        <span class="quiet">
          durable clock <b class="number">{clock === undefined ? "–" : count(clock)}</b>
        </span>
        <span class={pending === 0 ? "quiet" : "warn"}>
          pending <b class="number pending">{count(pending)}</b>
        </span>
      </header>
      <div class="editor" ref={place} />
    </section>
  );
}

function stateOf(facts: PersonFacts, mayWrite: boolean): readonly [state: string, words: string] {
  if (facts.refusal !== undefined) return ["bad", "closed"];
  if (!facts.connected) return ["bad", "connecting again …"];
  if (!facts.synced) return ["warn", "loading …"];
  if (!mayWrite) return ["warn", "read only"];
  return facts.writable ? ["good", "connected"] : ["warn", "takes no edits"];
}
