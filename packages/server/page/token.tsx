/**
 * Asks for a token when the server wants one, and says so when the one that it got does not open everything.
 * It stays in this tab, and goes with every request of the page.
 */

import { useState } from "preact/hooks";
import { setToken } from "./api.js";
import type { Locked } from "./figures.js";

const SAYS: Readonly<Record<Exclude<Locked, "no">, readonly [title: string, text: string]>> = {
  needed: ["This server wants a token", "It needs the action read; for compacting and deleting, admin."],
  unknown: ["This token is not known", "It is wrong, or has expired."],
  partly: [
    "This token does not open the whole store",
    "It is of some documents: these open at #/documents/ and their id.",
  ],
};

export function TokenForm({ why }: { readonly why: Exclude<Locked, "no"> }) {
  const [title, text] = SAYS[why];
  const [value, setValue] = useState("");
  const enter = (event: Event) => {
    event.preventDefault();
    setToken(value.trim());
    location.reload();
  };
  return (
    <section class="panel narrow">
      <h1>{title}</h1>
      <p class="quiet" role={why === "needed" ? undefined : "alert"}>
        {text} It is kept in this tab alone.
      </p>
      <form class="row" onSubmit={enter}>
        <input
          type="password"
          aria-label="Token"
          autocomplete="off"
          required
          value={value}
          onInput={(event) => setValue(event.currentTarget.value)}
        />
        <button type="submit" class="primary">
          Enter
        </button>
      </form>
    </section>
  );
}
