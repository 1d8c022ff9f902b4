// The page with documents whose ids are long, or mean something in an address.
import { afterAll, afterEach, expect, test } from "vitest";
import { cleanUp, closeBrowser, eventually, noBrowserReason, start, tab, temporaryStore } from "./support.js";

afterEach(cleanUp);
afterAll(closeBrowser);

const IDS = [
  ...["a b", "a%20b", "a%2520b", "x", "x?y", "x#y", "end", "end "],
  ...["line\nbreak", "linebreak", "é/ü+&="],
];

test("[PG15] what is typed on the page goes into the document that it shows, whatever its id is", async (context) => {
  context.skip(noBrowserReason !== undefined, noBrowserReason);
  const { url } = await start("serve", await temporaryStore());
  const addressOf = (id: string) => `${url}/api/documents/${encodeURIComponent(id)}`;
  for (const id of IDS) expect((await fetch(addressOf(id), { method: "PUT" })).status).toBe(200);
  const page = await tab(url);
  for (const id of IDS) {
    await page.goto(`${url}/#/try/${encodeURIComponent(id)}`);
    await eventually(() => page.getByText("connected", { exact: true }).count()).toBe(2);
    await page.getByLabel("Text of Ann").click();
    await page.keyboard.type("0123456789");
    await eventually(() => page.locator("[data-person=Ann] .pending").textContent()).toBe("0");
    const ben = page.locator("[data-person=Ben] .cm-content");
    await eventually(() => ben.textContent()).toMatch(/^0123456789/);
  }
  for (const id of IDS) {
    const content = await (await fetch(`${addressOf(id)}/content`)).json();
    expect(content).toMatchObject({ id, parts: [{ name: "text", text: "0123456789" }] });
  }
});

test("[PG16] no view is wider than a window of 320 pixels, nor than any for a long id", async (context) => {
  context.skip(noBrowserReason !== undefined, noBrowserReason);
  const { url } = await start("serve", await temporaryStore());
  const long = "x".repeat(512);
  for (const id of ["notes", long]) await fetch(`${url}/api/documents/${id}`, { method: "PUT" });
  const page = await tab(url, /before the connection is established/);
  for (const width of [320, 1200]) {
    await page.setViewportSize({ width, height: 700 });
    for (const [place, heading] of [
      ["documents", "Documents"],
      [`documents/${long}`, long],
      ["storage", "Storage"],
      ["try/notes", "Try it"],
      [`try/${long}`, "Try it"],
    ] as const) {
      await page.goto(`${url}/#/${place}`);
      await eventually(() => page.locator("h1").textContent()).toBe(heading);
      await eventually(() => page.evaluate(() => document.documentElement.scrollWidth)).toBe(width);
    }
  }
});
