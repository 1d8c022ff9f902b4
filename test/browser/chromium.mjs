/**
 * A real Chromium for tests and pictures: Debian's, or the one that COPPICE_CHROMIUM names. Nothing is downloaded.
 */
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { chromium } from "playwright-core";

const NAMES = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/** The path of an executable; `undefined` when there is none. */
export function findChromium() {
  const folders = (process.env.PATH ?? "").split(delimiter);
  const candidates = folders.flatMap((folder) => NAMES.map((name) => join(folder, name)));
  const named = process.env.COPPICE_CHROMIUM;
  return (named === undefined ? candidates : [named]).find(isExecutable);
}

/** It looks nothing up and calls nobody; the sandbox of Chromium does not work for root. */
export function launchChromium(executablePath) {
  return chromium.launch({
    executablePath,
    args: [
      ...(process.getuid?.() === 0 ? ["--no-sandbox"] : []),
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}

function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch (error) {
    if (error.code === undefined) throw error;
    return false;
  }
}
