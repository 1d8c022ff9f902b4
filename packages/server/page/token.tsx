/**
 * Asks for a token when the server wants one, and says so when the one that it got does not open everything.
 * It stays in this tab, and goes with every request of the page.
 */

import { useState } from "preact/hooks";
import { setToken } from "./api.js";

export function TokenForm({ refused }: { readonly refused: boolean }) {
  const [value, setValue] = useState("");
  const enter = (event: Event) => {
    event.preventDefault();
    setToken(value.trim());
    location.reload();
  };
  return (
    <section class="panel narrow">
      <h1>{refused ? "This token does not open the whole store" : "This server wants a token"}</h1>
      <p class="quiet" role={refused ? "alert" : undefined}>
        {refused
          ? "It is wrong, has expired, or is of some documents: these open at #/documents/ and their id. "
          : "It needs the action read; for compacting and deleting, admin. "}
        It is kept in this tab alone.
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
