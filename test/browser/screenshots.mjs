/**
 * Pictures of every view of the page, in light and dark, for people to look at; and the one of the README.
 *
 * usage: node test/browser/screenshots.mjs [folder], after `npm run build`. Needs a Chromium.
 */
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { findChromium, launchChromium } from "./chromium.mjs";

const root = resolve(import.meta.dirname, "../..");
const target = resolve(process.argv[2] ?? join(root, ".tmp/screenshots"));
const executable = findChromium();
if (executable === undefined) throw new Error("no Chromium was found; name one with COPPICE_CHROMIUM");

const home = mkdtempSync(join(tmpdir(), "coppice-screenshots-"));
const server = spawn(
  process.execPath,
  [join(root, "packages/cli/dist/main.js"), "start", "--json", "--store", `level:${join(home, "store")}`],
  { stdio: ["ignore", "pipe", "inherit"] },
);
const ended = new Promise((done) => server.once("close", done));
try {
  mkdirSync(target, { recursive: true });
  const url = await addressOf(server);
  const browser = await launchChromium(executable);
  for (const colorScheme of ["light", "dark"]) await picture(browser, url, colorScheme);
  await browser.close();
  console.log(`pictures are in ${target}`);
} finally {
  server.kill("SIGTERM");
  await ended;
  rmSync(home, { recursive: true, force: true });
}

function addressOf({ stdout }) {
  return new Promise((found, failed) => {
    let text = "";
    stdout.setEncoding("utf8").on("data", (part) => {
      text += part;
      const [, address] = /"event":"listening","url":"([^"]+)"/.exec(text) ?? [];
      if (address !== undefined) found(address);
    });
    stdout.once("close", () => failed(new Error(`the server did not start: ${text}`)));
  });
}

async function picture(browser, url, colorScheme) {
  const context = await browser.newContext({
    colorScheme,
    viewport: { width: 1240, height: 860 },
    deviceScaleFactor: 1,
    reducedMotion: "reduce",
  });
  const page = await context.newPage();
  const shot = async (name, options = {}) => {
    await page.waitForTimeout(500);
    await page.screenshot({ path: join(target, `${name}-${colorScheme}.png`), ...options });
  };
  const at = (place) => page.goto(`${url}/#/${place}`);
  await at("documents");
  await page.getByRole("link", { name: "paper" }).waitFor();
  await shot("documents");
  await page.getByRole("searchbox").fill("nothing like this");
  await shot("documents-none");
  await at("documents/paper");
  await page.getByRole("slider").waitFor();
  await shot("document-now", { fullPage: true });
  await page.getByRole("slider").fill("1200");
  await shot("document-then", { fullPage: true });
  await page.getByRole("button", { name: "Tag" }).click();
  await page.getByRole("textbox", { name: "name of the version" }).fill(`draft ${colorScheme}`);
  await shot("document-tag");
  await page.keyboard.press("Enter");
  await page.getByText("names the version").waitFor();
  // Held back, so that the steps can be looked at.
  await page.route("**/compact*", async (route) => {
    await page.waitForTimeout(1_500);
    await route.continue();
  });
  await page.getByRole("button", { name: "Compact" }).click();
  // The second time nothing is left that would go.
  const trim = page.getByRole("button", { name: /^Trim/ });
  await trim.or(page.getByText(/^reading/)).waitFor();
  await shot("document-compact-asked");
  if (await trim.isVisible()) await trim.click();
  await shot("document-compacting");
  await page.getByText(/trimmed, .* freed|nothing was left/).waitFor();
  await shot("document-compacted", { fullPage: true });
  await at("documents/trees");
  await page.getByRole("img", { name: "chains of events" }).waitFor();
  await shot("document-inferred", { fullPage: true });
  await at("documents/board");
  await page.getByText("Event graph").waitFor();
  await shot("document-graph", { fullPage: true });
  await at("try/notes");
  await page.getByRole("button", { name: "Type for me" }).click();
  await page.waitForTimeout(4_000);
  await page.getByRole("button", { name: "Kill the server" }).click();
  await shot("try-away");
  await page.locator("[data-verdict=true]").waitFor();
  await page.getByRole("button", { name: "Stop typing" }).click();
  await page.mouse.move(0, 0);
  await page.getByText("live", { exact: true }).waitFor();
  await shot("try");
  await page.getByRole("button", { name: "Type for me" }).click();
  await page.getByRole("link", { name: "Storage" }).click();
  const [other] = [await context.newPage()];
  await other.goto(`${url}/#/try/second`);
  await other.getByRole("button", { name: "Type for me" }).click();
  await page.bringToFront();
  await page.waitForTimeout(8_000);
  await page.getByRole("button", { name: "What would it free?" }).click();
  await page.getByText("It would trim").waitFor();
  await shot("storage");
  await page.setViewportSize({ width: 420, height: 860 });
  await at("documents");
  await shot("narrow-documents");
  await at("try/notes");
  await shot("narrow-try");
  await context.close();
}
