/**
 * `coppice start` in a process of its own, and real tabs on its page. Everything made here is closed by `cleanUp`; a
 * tab that wrote an error to its console, or asked another host for anything, fails its test there.
 *
 * The built packages are used, as the page is only built with them: run `npm run build` first.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Browser, Page } from "playwright-core";
import { expect } from "vitest";
import { findChromium, launchChromium } from "./chromium.mjs";

const CLI = fileURLToPath(new URL("../../packages/cli/dist/main.js", import.meta.url));
const PAGE = fileURLToPath(new URL("../../packages/server/dist/page/index.html", import.meta.url));
const endings: (() => Promise<unknown>)[] = [];
let browser: Promise<Browser> | undefined;

/** Why no browser test can run here; `undefined` when they can. */
export const noBrowserReason: string | undefined =
  findChromium() === undefined
    ? "no Chromium was found (Debian: apt-get install chromium; or name one with COPPICE_CHROMIUM)"
    : existsSync(PAGE)
      ? undefined
      : "the page is not built (npm run build)";

export async function cleanUp(): Promise<void> {
  for (const end of endings.splice(0).reverse()) await end();
}

export async function closeBrowser(): Promise<void> {
  await (await browser)?.close();
}

export async function temporaryStore(): Promise<string> {
  const home = await mkdtemp(join(tmpdir(), "coppice-browser-"));
  endings.push(() => rm(home, { recursive: true, force: true }));
  return join(home, "store");
}

export interface Started {
  readonly url: string;
  /** What it told, as JSON lines. */
  readonly told: readonly Record<string, unknown>[];
  /** Ends it as Ctrl-C does, and waits; its exit code. */
  readonly stop: () => Promise<number | null>;
}

/** `coppice start`, or `coppice serve`, on this store. */
export async function start(
  command: "start" | "serve",
  location: string,
  ...args: readonly string[]
): Promise<Started> {
  const all = [command, "--json", "--store", `level:${location}`, "--port", "0", ...args];
  const child: ChildProcess = spawn(process.execPath, [CLI, ...all], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = new Promise<number | null>((resolve) => child.once("close", (code) => resolve(code)));
  const told: Record<string, unknown>[] = [];
  let rest = "";
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    told.push(...lines.map((line) => JSON.parse(line) as Record<string, unknown>));
  });
  const stop = () => {
    child.kill("SIGINT");
    return ended;
  };
  endings.push(stop);
  await until("it listens", () => told.length > 0 || child.exitCode !== null);
  return { url: String(told[0]?.url), told, stop };
}

/**
 * A tab of its own. `expected`: what the browser itself may write to the console as an error, about requests that
 * fail because the test wants them to.
 */
export async function tab(url: string, expected?: RegExp): Promise<Page> {
  browser ??= launchChromium(findChromium()!);
  const context = await (await browser).newContext({ viewport: { width: 1200, height: 900 } });
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  const wrong: string[] = [];
  const { host } = new URL(url);
  page.on("pageerror", (error) => wrong.push(String(error)));
  page.on("request", (request) => {
    const asked = new URL(request.url());
    if (asked.host !== host && !["data:", "blob:"].includes(asked.protocol)) wrong.push(`asked ${asked}`);
  });
  page.on("websocket", (socket) => {
    if (new URL(socket.url()).host !== host) wrong.push(`asked ${socket.url()}`);
  });
  page.on("console", (message) => {
    const isWrong = message.type() === "error" || message.type() === "warning";
    if (isWrong && expected?.test(message.text()) !== true) wrong.push(message.text());
  });
  endings.push(async () => {
    await context.close();
    expect(wrong.join("\n"), "what went wrong in the page").toBe("");
  });
  await page.goto(url);
  return page;
}

export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 60_000;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`never happened: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** What a page shows comes when the browser has drawn it: asked until it is as expected. */
export function eventually<T>(read: () => Promise<T>) {
  return expect.poll(read, { timeout: 60_000, interval: 20 });
}

/** The names of what has the focus, Tab after Tab. */
export async function walk(page: Page, steps: number): Promise<string[]> {
  await page.evaluate(() => (document.activeElement as HTMLElement | null)?.blur());
  const names: string[] = [];
  for (let step = 0; step < steps; step++) {
    await page.keyboard.press("Tab");
    names.push(await focused(page));
  }
  return names;
}

/** The name of what has the focus. */
export function focused(page: Page): Promise<string> {
  return page.evaluate(() => {
    const element = document.activeElement as HTMLInputElement | null;
    const name =
      element?.getAttribute("aria-label") ?? element?.labels?.[0]?.textContent ?? element?.textContent;
    return (name ?? "").trim();
  });
}
