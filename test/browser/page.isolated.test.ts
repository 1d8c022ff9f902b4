// The page in real Chromium, against `coppice start` on LevelDB in processes of their own.

import { readFile, writeFile } from "node:fs/promises";
import { levelBackend } from "@coppice/level";
import { yjs } from "@coppice/yjs";
import { DocumentStorage, type TreeDocument, tree } from "coppice";
import type { Page } from "playwright-core";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import * as Y from "yjs";
import {
  cleanUp,
  closeBrowser,
  eventually,
  focused,
  noBrowserReason,
  start,
  tab,
  temporaryStore,
  until,
  walk,
} from "./support.js";

afterEach(cleanUp);
afterAll(closeBrowser);

function openStore(location: string) {
  return DocumentStorage.open({ backend: levelBackend(location), models: [yjs()] });
}

function openBoard(storage: DocumentStorage) {
  return storage.open<TreeDocument>("board", { model: "tree" });
}

/** Types a text letter by letter; returns each state that was recorded on the way, by its clock. */
async function recorded(location: string, id: string, letters: string): Promise<string[]> {
  const storage = await openStore(location);
  const handle = await storage.open(id);
  const states = [""];
  for (const letter of letters) {
    const text = handle.doc.getText("text");
    handle.doc.transact(() => {
      text.insert(text.length, letter);
      if (states.length % 5 === 0) text.delete(0, 1);
    });
    expect(await handle.save()).toBe(states.length);
    states.push(text.toString());
  }
  await handle.close();
  await storage.close();
  return states;
}

async function typedInto(page: Page, person: string, text: string): Promise<void> {
  await page.getByLabel(`Text of ${person}`).click();
  await page.keyboard.press("Control+End");
  await page.keyboard.type(text, { delay: 8 });
}

/** Without the cursors of others, which stand within the lines. */
function textOf(page: Page, person: string): Promise<string> {
  return page.getByLabel(`Text of ${person}`).evaluate((element) => {
    const copy = element.cloneNode(true) as Element;
    for (const cursor of copy.querySelectorAll(".cm-ySelectionCaret")) cursor.remove();
    return [...copy.querySelectorAll(".cm-line")].map((line) => line.textContent).join("\n");
  });
}

function settled(page: Page): Promise<boolean> {
  return page.locator("[data-pending]").evaluate((status) => status.getAttribute("data-pending") === "0");
}

const LOST = /ERR_(?:CONNECTION|EMPTY|SOCKET|INCOMPLETE|FAILED)|WebSocket connection to/;
const REFUSED = /status of 40[13]/;

describe("the page", () => {
  test("[PG1] two tabs edit one document through SIGKILL of the server; all converge, and the disk agrees", async (context) => {
    context.skip(noBrowserReason !== undefined, noBrowserReason ?? "a reason");
    const location = await temporaryStore();
    const started = await start("start", location, "--no-samples");
    const [one, two] = await Promise.all([
      tab(`${started.url}/#/try/notes`, LOST),
      tab(`${started.url}/#/try/notes`, LOST),
    ]);
    const long = "while the server is killed and comes back ".repeat(3);
    await typedInto(one, "Ann", "before ");
    await until("it is durable", () => settled(one));
    await two.getByLabel("Text of Ben").click();
    const typing = two.keyboard.type(long, { delay: 12 });
    await one.getByRole("button", { name: "Kill the server" }).click();
    await typedInto(one, "Ann", "after ");
    await typing;
    await one.locator("[data-verdict=true]").waitFor();
    await until("all is durable", async () => (await settled(one)) && (await settled(two)));
    await until("all converge", async () => {
      const texts = await Promise.all(
        [one, two].flatMap((page) => ["Ann", "Ben"].map((person) => textOf(page, person))),
      );
      return (
        texts.every((text) => text === texts[0]) && texts[0]!.length === "before after ".length + long.length
      );
    });
    const text = await textOf(one, "Ann");
    expect(started.told.map(({ event }) => event)).toEqual(["listening", "died", "listening"]);
    expect(await started.stop()).toBe(0);
    const storage = await openStore(location);
    expect((await storage.load<Y.Doc>("notes"))!.doc.getText("text").toString()).toBe(text);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  }, 120_000);

  test("[PG2] the slider shows the document as it was, and a compaction frees what it says", async (context) => {
    context.skip(noBrowserReason !== undefined, noBrowserReason ?? "a reason");
    const location = await temporaryStore();
    const states = await recorded(location, "a/b c", "Cut back to a snapshot, a document grows again.");
    const { url, stop } = await start("start", location, "--no-samples");
    const page = await tab(`${url}/`, LOST);
    await page.getByRole("searchbox").fill("b c");
    await page.getByRole("link", { name: "a/b c" }).click();
    const slider = page.getByRole("slider");
    const then = page.getByLabel("the document then").locator("pre");
    for (const clock of [12, 30, 3]) {
      await slider.fill(String(clock));
      await until(`clock ${clock}`, async () => (await then.getAttribute("data-clock")) === String(clock));
      await eventually(() => then.textContent()).toBe(states[clock]);
    }
    await slider.focus();
    await page.keyboard.press("ArrowRight");
    await until("one clock on", async () => (await then.getAttribute("data-clock")) === "4");
    await page.getByRole("button", { name: "Tag" }).click();
    await page.getByLabel("name of the version").fill("early");
    await page.keyboard.press("Enter");
    await page.getByText("“early” names the version at clock 4").waitFor();
    const download = page.waitForEvent("download");
    await page.getByRole("button", { name: "Download" }).click();
    const copy = new Y.Doc();
    Y.applyUpdate(copy, await readFile(await (await download).path()));
    expect(copy.getText("text").toString()).toBe(states[4]);
    await page.getByRole("button", { name: "Fork" }).click();
    await page.getByLabel("id of the new document").fill("a fork");
    await page.keyboard.press("Enter");
    await page.getByRole("link", { name: "a fork" }).click();
    await page.getByRole("heading", { name: "a fork" }).waitFor();
    await until("the fork", async () => (await then.textContent()) === states[4]);
    await page.goBack();
    await page.getByRole("heading", { name: "a/b c" }).waitFor();
    await page.getByRole("button", { name: "Compact" }).click();
    const asked = await page.getByText(/^Versions before clock/).textContent();
    await page.getByRole("button", { name: /^Trim/ }).click();
    const said = await page.getByText(/trimmed, .* freed/).textContent();
    const [, trimmed] = /^([\d,]+) events trimmed/.exec(said ?? "") ?? [];
    // A tag is the way to what is older than the cut.
    await page.getByRole("button", { name: "early" }).click();
    await until("the tag", async () => (await then.getAttribute("data-clock")) === "4");
    await eventually(() => then.textContent()).toBe(states[4]);
    expect(await stop()).toBe(0);
    const storage = await openStore(location);
    const { oldestClock } = (await storage.info("a/b c"))!;
    expect(Number(trimmed)).toBe(oldestClock);
    expect(asked).toBe(`Versions before clock ${oldestClock} will be gone for good, except tagged ones.`);
    expect(oldestClock).toBeGreaterThan(20);
    expect((await storage.load<Y.Doc>("a/b c"))!.doc.getText("text").toString()).toBe(states.at(-1));
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  }, 120_000);

  test("[PG5] the storage says what a compaction would free, and that is what it frees", async (context) => {
    context.skip(noBrowserReason !== undefined, noBrowserReason ?? "a reason");
    const location = await temporaryStore();
    for (const id of ["one", "two"]) await recorded(location, id, "written and written again");
    const { url, stop } = await start("start", location, "--no-samples");
    const page = await tab(`${url}/#/storage`, LOST);
    await page.getByRole("button", { name: "What would it free?" }).click();
    const would = await page.getByText(/It would trim .* and free/).textContent();
    await page.getByRole("button", { name: "Compact all" }).click();
    await page.getByText(/gone for good, except tagged ones/).waitFor();
    await page.keyboard.press("Enter");
    await eventually(() => page.getByText(/gone for good/).count()).toBe(0);
    await page.getByRole("button", { name: "Compact all" }).click();
    await page.getByRole("button", { name: "Trim them" }).click();
    const did = await page.getByText(/Trimmed .* freed in/).textContent();
    const [, events, bytes] = /trim (.* documents) and free ([\d.]+ \w+)/.exec(would ?? "") ?? [];
    expect(did).toContain(`Trimmed ${events}: ${bytes} freed`);
    await until("the figures show it", async () =>
      /[1-9][\d.]* [KM]iB/.test((await page.locator(".tile", { hasText: "on disk" }).textContent()) ?? ""),
    );
    expect(await stop()).toBe(0);
    const storage = await openStore(location);
    expect((await storage.info("one"))?.oldestClock).toBeGreaterThan(10);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  }, 120_000);

  test("[PG6] everything is reached and done from the keyboard", async (context) => {
    context.skip(noBrowserReason !== undefined, noBrowserReason ?? "a reason");
    const location = await temporaryStore();
    const states = await recorded(location, "notes", "written");
    const { url } = await start("start", location, "--no-samples");
    const page = await tab(`${url}/`);
    await page.getByRole("link", { name: "notes" }).waitFor();
    const names = await walk(page, 12);
    expect(names[0]).toBe("Skip to the content");
    for (const name of ["Documents", "Storage", "Try it", "Search documents", "notes"])
      expect(names).toContain(name);
    await page.getByRole("link", { name: "notes" }).focus();
    await page.keyboard.press("Enter");
    await page.getByRole("slider").waitFor();
    const controls = await walk(page, 16);
    for (const name of ["Edit", "Snapshot", "Compact", "Tag …", "Fork …", "Download", "Export", "clock"])
      expect(controls).toContain(name);
    await page.getByRole("button", { name: "Tag" }).focus();
    await page.keyboard.press("Enter");
    await page.keyboard.type("by hand");
    await page.keyboard.press("Escape");
    await eventually(() => page.getByLabel("name of the version").count()).toBe(0);
    // What is done with is gone, and must not take the focus along.
    await eventually(() => focused(page)).toBe("Tag …");
    await page.keyboard.press("Enter");
    await page.keyboard.type("by hand");
    await page.keyboard.press("Enter");
    await page.getByText("“by hand” names the version").waitFor();
    await eventually(() => focused(page)).toBe("Tag …");
    await page.getByRole("button", { name: "Compact" }).focus();
    await page.keyboard.press("Enter");
    await eventually(() => focused(page)).toBe("Keep them");
    await page.keyboard.press("Escape");
    await eventually(() => focused(page)).toBe("Compact");
    await page.goto(`${url}/#/storage`);
    // A place that has just come takes the focus, and its title.
    await eventually(() => page.title()).toBe("Storage · Coppice");
    await page.getByRole("button", { name: "Compact all" }).focus();
    await page.keyboard.press("Enter");
    await eventually(() => focused(page)).toBe("Keep them");
    await page.keyboard.press("Enter");
    await eventually(() => focused(page)).toBe("Compact all");
    await page.goto(`${url}/#/try/notes`);
    await eventually(() => page.title()).toBe("Try notes · Coppice");
    // What is typed before the text has come may stand behind it.
    await until("Ann has the text", async () => (await textOf(page, "Ann")) === states.at(-1));
    await page.getByLabel("Text of Ann").focus();
    await page.keyboard.type("typed ");
    await until("Ben has it", async () => (await textOf(page, "Ben")).startsWith("typed "));
    await page.keyboard.press("Tab");
    await eventually(() => focused(page)).toBe("Text of Ben");
  }, 120_000);

  test("[PG8] the list can be searched and keeps itself up to date; an event graph is drawn", async (context) => {
    context.skip(noBrowserReason !== undefined, noBrowserReason ?? "a reason");
    const location = await temporaryStore();
    const storage = await DocumentStorage.open({ backend: levelBackend(location), models: [yjs(), tree()] });
    const [ann, ben] = [await openBoard(storage), await openBoard(storage)];
    for (const { doc } of [ann, ben]) doc.put();
    await Promise.all([ann.save(), ben.save()]);
    await ann.refresh();
    ann.doc.put();
    await ann.save();
    await storage.close();
    const { url } = await start("start", location, "--no-samples");
    const page = await tab(`${url}/`);
    await page.getByRole("link", { name: "board" }).waitFor();
    await fetch(`${url}/api/documents/later`, { method: "PUT" });
    await page.getByRole("link", { name: "later" }).waitFor();
    await page.getByRole("searchbox").fill("BO");
    await until("it is filtered", async () => (await page.getByRole("row").count()) === 2);
    await page.getByRole("link", { name: "board" }).click();
    const graph = page.getByRole("img", { name: "3 chains of events" });
    await graph.waitFor();
    await eventually(() => graph.locator(".node").count()).toBe(3);
    await eventually(() => graph.locator(".edge").count()).toBe(2);
    await eventually(() => page.getByText("by 2 replicas").count()).toBe(1);
  }, 120_000);

  test("[PG14] a document is exported with its history, and imported under another id or a deleted one", async (context) => {
    context.skip(noBrowserReason !== undefined, noBrowserReason ?? "a reason");
    const location = await temporaryStore();
    const states = await recorded(location, "a/b c", "kept as a file");
    const { url, stop } = await start("start", location, "--no-samples");
    const page = await tab(`${url}/#/documents/${encodeURIComponent("a/b c")}`, /status of 4\d\d/);
    const download = page.waitForEvent("download");
    await page.getByRole("button", { name: "Export" }).click();
    const file = await (await download).path();
    expect((await download).suggestedFilename()).toBe("a-b-c.coppice");
    await page.getByText("for Import on this page").waitFor();
    const imports = async (name: string, buffer: Buffer, id?: string) => {
      const mimeType = "application/octet-stream";
      await page.locator("input[type=file]").setInputFiles({ name, mimeType, buffer });
      const field = page.getByLabel("id of the imported document");
      await eventually(() => field.inputValue()).toBe(name.replace(".coppice", ""));
      if (id !== undefined) await field.fill(id);
      await field.press("Enter");
    };
    await page.goto(`${url}/#/documents`);
    const exported = await readFile(file);
    await imports("again.coppice", exported);
    await page.getByText(`imported, at clock ${states.length - 1}`).waitFor();
    await page.getByRole("status").getByRole("link", { name: "again" }).click();
    await page.getByRole("heading", { name: "again" }).waitFor();
    await eventually(() => page.getByLabel("the document then").locator("pre").textContent()).toBe(
      states.at(-1),
    );
    await page.goto(`${url}/#/documents`);
    await imports("again.coppice", exported);
    await page.getByText("was here already, exactly like this").waitFor();
    await imports("cut.coppice", exported.subarray(0, exported.length - 9));
    await page.getByRole("alert").waitFor();
    await page.getByRole("searchbox").focus();
    await page.keyboard.type("again");
    await eventually(() => page.getByRole("searchbox").inputValue()).toBe("again");
    await page.getByRole("button", { name: "Cancel" }).click();
    await eventually(() => page.getByRole("alert").count()).toBe(0);
    await fetch(`${url}/api/documents/again`, { method: "DELETE" });
    await imports("file.coppice", exported, "again");
    await page.getByRole("alert").getByText("was deleted").waitFor();
    await page.getByRole("button", { name: "Recreate" }).click();
    // Clocks of a deleted document are not used again.
    await page.getByText(`imported, at clock ${2 * (states.length - 1)}`).waitFor();
    await page.close();
    expect(await stop()).toBe(0);
    const storage = await openStore(location);
    for (const id of ["a/b c", "again"])
      expect((await storage.load<Y.Doc>(id))!.doc.getText("text").toString()).toBe(states.at(-1));
    expect(await storage.info("cut")).toBeUndefined();
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  }, 120_000);

  test("[PG9] what others do is shown as it happens, and asked for when nothing is told", async (context) => {
    context.skip(noBrowserReason !== undefined, noBrowserReason ?? "a reason");
    const location = await temporaryStore();
    await recorded(location, "notes", "written");
    const { url } = await start("start", location, "--no-samples");
    const page = await tab(`${url}/#/documents/notes`, LOST);
    await page.getByText("live", { exact: true }).waitFor();
    // Until it is live, the page asks.
    const asked: string[] = [];
    page.on("request", (request) => asked.push(new URL(request.url()).pathname));
    const events = page.locator(".tile", { hasText: "events" }).first().locator(".value");
    await eventually(() => events.textContent()).toBe("7");
    const other = await tab(`${url}/#/try/notes`, LOST);
    await typedInto(other, "Ann", "and more");
    await until("it is shown", async () => Number(await events.textContent()) > 7);
    const clients = page.locator(".tile", { hasText: "last change" }).locator(".note");
    await until("both clients are", async () => (await clients.textContent()) === "2 clients now");
    // Figures come with the changes: nobody asks for them.
    expect(asked.filter((path) => path === "/api/figures")).toEqual([]);
    // A server that tells nothing is asked.
    await page.route("**/api/changes*", (route) => route.abort());
    await fetch(`${url}/api/supervisor/kill`, { method: "POST" }).catch(() => undefined);
    await page.getByText("reconnecting …").waitFor();
    await typedInto(other, "Ben", " after");
    await until("it is asked for", () => asked.includes("/api/figures"));
    const before = Number(await events.textContent());
    await typedInto(other, "Ben", " all");
    await until("it is shown all the same", async () => Number(await events.textContent()) > before);
    await eventually(() => page.getByText("reconnecting …").count()).toBe(1);
    await page.unroute("**/api/changes*");
    await page.getByText("live", { exact: true }).waitFor();
  }, 120_000);

  test("[PG10] a compaction shows its steps, can be cancelled, and then says what it freed", async (context) => {
    context.skip(noBrowserReason !== undefined, noBrowserReason ?? "a reason");
    const location = await temporaryStore();
    await recorded(location, "notes", "Cut back to a snapshot, a document grows again.");
    const { url } = await start("start", location, "--no-samples");
    const page = await tab(`${url}/#/documents/notes`, LOST);
    const facts = async () =>
      (await (await fetch(`${url}/api/documents/notes`)).json()) as { oldestClock: number };
    // The server is as it is; only its answer is held back until the page was looked at.
    let letGo: () => void = () => undefined;
    const held = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    let isLookHeld = true;
    await page.route("**/compact*", async (route) => {
      if (isLookHeld || !route.request().url().includes("dryRun")) await held;
      // The page may have given it up by then.
      await route.continue().catch(() => undefined);
    });
    await page.getByRole("button", { name: "Compact" }).click();
    await page.getByText("looking what would go …").waitFor();
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.getByText("cancelled", { exact: true }).waitFor();
    isLookHeld = false;
    await page.getByRole("button", { name: "Compact" }).click();
    const keep = page.getByRole("button", { name: "Keep them" });
    await keep.waitFor();
    await until("what undoes nothing has the focus", async () => (await focused(page)) === "Keep them");
    await page.keyboard.press("Enter");
    await until("it is not asked any more", async () => (await keep.count()) === 0);
    await page.getByRole("button", { name: "Compact" }).click();
    await page.getByRole("button", { name: /^Trim/ }).click();
    const steps = page.getByRole("status", { name: "Compacting" });
    await steps.waitFor();
    await eventually(() => steps.getByRole("listitem").allTextContents()).toEqual([
      "reading",
      "folding",
      "staging",
      "verifying",
      "trimming",
    ]);
    await eventually(() => steps.locator("[aria-current=step]").textContent()).toBe("reading");
    await steps.getByRole("button", { name: "Cancel" }).click();
    await page.getByText(/^cancelled/).waitFor();
    letGo();
    await page.unrouteAll({ behavior: "wait" });
    expect((await facts()).oldestClock).toBe(0);
    await page.getByRole("button", { name: "Compact" }).click();
    await page.getByRole("button", { name: /^Trim/ }).click();
    const said = await page.getByText(/trimmed, .* freed/).textContent();
    const { oldestClock } = await facts();
    expect(Number(/^([\d,]+) events/.exec(said ?? "")?.[1])).toBe(oldestClock);
    const sizes = page.locator(".sizes dd");
    await eventually(() => sizes.first().textContent()).toMatch(/^ *0 B snapshot .* of events$/);
    await eventually(() => sizes.last().textContent()).toMatch(/[1-9]\d* B snapshot .* of events$/);
    await page.getByRole("img", { name: /over time, with .* marks/ }).waitFor();
    await page.getByText(/^1 compaction since the server started/).waitFor();
    await page.getByRole("button", { name: "Compact" }).click();
    await page.getByText("nothing was left to trim").waitFor();
  }, 120_000);

  test("[PG12] the event graph of a Yjs document is drawn as inferred, and says where it is cut", async (context) => {
    context.skip(noBrowserReason !== undefined, noBrowserReason ?? "a reason");
    const location = await temporaryStore();
    const storage = await openStore(location);
    const [ann, ben] = [await storage.open("both"), await storage.open("both")];
    ann.doc.getText("text").insert(0, "begin");
    await ann.save();
    await ben.refresh();
    for (const { doc } of [ann, ben]) doc.getText("text").insert(5, "x");
    await Promise.all([ann.save(), ben.save()]);
    await Promise.all([ann.refresh(), ben.refresh()]);
    ben.doc.getText("text").insert(6, "!");
    await ben.save();
    await Promise.all([ann.close(), ben.close()]);
    // Many that write at once, so that there are more chains than are drawn.
    const many = Array.from({ length: 310 }, (_, client) => {
      const doc = new Y.Doc();
      doc.clientID = client + 1;
      doc.getText("text").insert(0, "x");
      return Y.encodeStateAsUpdate(doc);
    });
    await storage.append("many", many);
    const long = await storage.open("long");
    for (let at = 0; at < 120; at++) long.doc.getText("text").insert(at, "x");
    for (let at = 0; at < 110; at++) long.doc.getText("text").delete(0, 1);
    await long.save();
    await storage.close();
    const { url } = await start("start", location, "--no-samples");
    const page = await tab(`${url}/#/documents/both`);
    const graph = page.getByRole("img", { name: "4 chains of events" });
    await graph.waitFor();
    await eventually(() => graph.locator(".node").count()).toBe(4);
    await eventually(() => graph.locator(".edge").count()).toBe(4);
    const panel = page.getByRole("region", { name: "Event graph" });
    await eventually(() => panel.getByText("4 events by 2 replicas").count()).toBe(1);
    await eventually(() => panel.getByText("Updates of yjs name no parents").count()).toBe(1);
    await eventually(() => panel.getByText("Cut").count()).toBe(0);
    await page.goto(`${url}/#/documents/many`);
    await page.getByRole("img", { name: "300 chains of events" }).waitFor();
    await eventually(() =>
      panel.getByText("Cut: the newest 300 chains are drawn, 10 older ones are not.").count(),
    ).toBe(1);
    await page.goto(`${url}/#/documents/long`);
    await panel.getByText("120 events, and 110 that only delete or repeat").waitFor();
    const boxes = await panel
      .locator("text")
      .evaluateAll((texts) =>
        texts.map((text) => text.getBoundingClientRect()).map((box) => [box.left, box.right]),
      );
    for (const [index, [left = 0]] of boxes.entries())
      expect(left).toBeGreaterThan(boxes[index - 1]?.[1] ?? 0);
  }, 120_000);

  test("[PG11] a list of more than one page is gone through from the keyboard, and searched by beginnings", async (context) => {
    context.skip(noBrowserReason !== undefined, noBrowserReason ?? "a reason");
    const location = await temporaryStore();
    const storage = await openStore(location);
    const event = Y.encodeStateAsUpdate(new Y.Doc());
    const ids = Array.from({ length: 1_050 }, (_, index) => `doc ${String(index).padStart(4, "0")}`);
    await Promise.all(ids.map((id) => storage.append(id, [event])));
    await storage.close();
    const { url } = await start("start", location, "--no-samples");
    const page = await tab(`${url}/`);
    await page.getByText("the first 500 documents").waitFor();
    await page.getByRole("button", { name: "Show 500 more" }).focus();
    await page.keyboard.press("Enter");
    await page.getByText("the first 1,000 documents").waitFor();
    await until("the focus is on the next one", async () => (await focused(page)) === "doc 0500");
    await page.getByRole("button", { name: "Show 500 more" }).focus();
    await page.keyboard.press("Enter");
    await until("the focus is on the last page", async () => (await focused(page)) === "doc 1000");
    await eventually(() => page.getByText("1,050 documents").count()).toBe(1);
    await eventually(() => page.getByRole("button", { name: "Show 500 more" }).count()).toBe(0);
    await page.keyboard.press("/");
    await eventually(() => focused(page)).toBe("Search documents");
    await page.keyboard.type("doc 104");
    await until("it is found", async () => (await page.getByRole("row").count()) === 11);
    await page.keyboard.type("9");
    await until("it is found", async () => (await page.getByRole("row").count()) === 2);
  }, 120_000);

  test("[PG7] where tokens are needed the page asks for one, and shows what it does not allow", async (context) => {
    context.skip(noBrowserReason !== undefined, noBrowserReason ?? "a reason");
    const location = await temporaryStore();
    await recorded(location, "notes", "written");
    const token = "a-token-that-reads-00";
    const tokens = `${location}.json`;
    const ofNotes = "a-token-of-notes-000";
    const grants = [
      { token, action: "read" },
      { token: ofNotes, action: "write", documents: ["notes"] },
    ];
    await writeFile(tokens, JSON.stringify(grants));
    const { url } = await start("serve", location, "--tokens", tokens);
    const page = await tab(`${url}/#/documents/notes`, REFUSED);
    await enter(page, "a-token-nobody-knows");
    await page.getByText("It is wrong, or has expired").waitFor();
    await enter(page, ofNotes);
    await until("its own document is shown", async () => (await textOfPast(page)) === "ritten");
    await page.getByText("This token allows reading and writing here").waitFor();
    await eventually(() => isEnabled(page, "Snapshot", "Compact", "Tag")).toEqual([false, false, true]);
    await eventually(() => page.getByRole("link", { name: "Edit" }).count()).toBe(1);
    // It is all that this token opens, so nothing else is asked for.
    await eventually(() => page.getByLabel("Token").count()).toBe(0);
    await eventually(() => page.locator("header .status").textContent()).toBe("polling");
    const refused: string[] = [];
    page.on("response", (response) => {
      if (response.status() === 403) refused.push(new URL(response.url()).pathname);
    });
    await page.waitForResponse((response) => response.url().endsWith("/healthz"));
    await page.waitForResponse((response) => response.url().endsWith("/healthz"));
    expect(refused).toEqual([]);
    await page.goto(`${url}/#/documents/other`);
    await page.getByText('the token lacks the action read for "other"').waitFor();
    await eventually(() => page.getByLabel("Token").count()).toBe(1);
    await page.getByRole("link", { name: "Documents" }).first().click();
    await until("the others are not", async () => (await page.locator("pre").count()) === 0);
    await enter(page, token);
    await page.getByRole("link", { name: "notes" }).click();
    await until("it is shown", async () => (await textOfPast(page)) === "ritten");
    await page.getByText("This token allows reading here").waitFor();
    await eventually(() => isEnabled(page, "Snapshot", "Compact", "Tag")).toEqual([false, false, false]);
    await page.getByRole("link", { name: "Watch" }).click();
    await until("a reader sees it", async () => (await textOf(page, "Ann")) === "ritten");
    await page.getByText("This token does not allow editing here").waitFor();
    await page.getByLabel("Text of Ann").click();
    await page.keyboard.type("x");
    expect(await textOf(page, "Ann")).toBe("ritten");
    await eventually(() => isEnabled(page, "Type for me")).toEqual([false]);
    await eventually(() => page.getByRole("button", { name: "Kill the server" }).count()).toBe(0);
    await page.goto(`${url}/#/storage`);
    await page.getByText("this needs a token with the action admin").waitFor();
    await eventually(() => isEnabled(page, "Compact all")).toEqual([false]);
  }, 120_000);

  test("[PG13] a document that cannot be edited here says why, and tries nothing", async (context) => {
    context.skip(noBrowserReason !== undefined, noBrowserReason ?? "a reason");
    const location = await temporaryStore();
    const backend = levelBackend(location);
    const storage = await DocumentStorage.open({ backend, models: [tree(), yjs()] });
    await storage.open("board", { model: "tree" });
    await storage.close();
    await recorded(location, "notes", "written");
    const { url } = await start("start", location, "--no-samples");
    const page = await tab(`${url}/#/try/board`, LOST);
    await page.getByText("board is of the model tree; only Yjs documents can be edited here").waitFor();
    await eventually(() => page.getByText("connecting again").count()).toBe(0);
    await eventually(() => page.getByLabel("Text of Ann").count()).toBe(0);
    // What was written stays in sight when the document goes.
    await page.goto(`${url}/#/try/notes`);
    await until("it is shown", async () => (await textOf(page, "Ann")) === "ritten");
    expect((await fetch(`${url}/api/documents/notes`, { method: "DELETE" })).status).toBe(200);
    await page.getByText("the document was deleted (4410)").waitFor();
    expect(await textOf(page, "Ann")).toBe("ritten");
    await eventually(() => isEnabled(page, "Type for me")).toEqual([false]);
  }, 120_000);
});

async function enter(page: Page, token: string): Promise<void> {
  await page.getByLabel("Token").fill(token);
  await Promise.all([page.waitForEvent("load"), page.keyboard.press("Enter")]);
}

function isEnabled(page: Page, ...names: readonly string[]): Promise<boolean[]> {
  return Promise.all(names.map((name) => page.getByRole("button", { name }).isEnabled()));
}

async function textOfPast(page: Page): Promise<string | undefined> {
  return (await page.locator("pre").allTextContents())[0];
}
