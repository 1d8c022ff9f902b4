/**
 * Asks for a token when the server wants one. It stays in this tab, and goes with every request of the
 * page.
 */

import { useState } from "preact/hooks";
import { setToken } from "./api.js";

export function TokenForm() {
  const [value, setValue] = useState("");
  const enter = (event: Event) => {
    event.preventDefault();
    setToken(value.trim());
    location.reload();
  };
  return (
    <section class="panel narrow">
      <h1>This server wants a token</h1>
      <p class="quiet">
        It needs the action read; for compacting and deleting, admin. It is kept in this tab alone.
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
