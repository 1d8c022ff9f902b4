/**
 * Static files under `/`: the inspector page, built into one folder.
 *
 * Invariant: the folder is walked once, at the start, and a request can only name a file that was found
 * then; no path of a request ever reaches the file system.
 */

import { readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join, posix, sep } from "node:path";
import type { Hono } from "hono";
import type { AppEnv } from "./requests.js";

const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json",
  ".md": "text/plain; charset=utf-8",
  ".map": "application/json",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".ico": "image/x-icon",
  ".woff2": "font/woff2",
};

const WITHOUT_PAGE = "This is a Coppice server. The API is described at /api/openapi.json\n";

export function addPage(app: Hono<AppEnv>, directory: string | undefined): void {
  const files = directory === undefined ? new Map<string, string>() : filesOf(directory);
  const index = files.get("/index.html");
  if (index !== undefined) files.set("/", index);
  app.get("*", async (context, next) => {
    const path = new URL(context.req.url).pathname;
    const file = files.get(path);
    if (file === undefined) return path === "/" ? context.text(WITHOUT_PAGE) : next();
    context.header("Content-Type", TYPES[posix.extname(file)] ?? "application/octet-stream");
    // Names of built files change with their content; that of the page itself does not.
    const isNamedByContent = /-[\w-]{8,}\.\w+$/.test(path);
    context.header("Cache-Control", isNamedByContent ? "public, max-age=31536000, immutable" : "no-cache");
    return context.body(await readFile(file));
  });
}

/** URL path to file; empty when there is no such folder. */
function filesOf(directory: string): Map<string, string> {
  const files = new Map<string, string>();
  try {
    for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const file = join(entry.parentPath, entry.name);
      const path = file.slice(directory.length).split(sep).join("/");
      files.set(path.startsWith("/") ? path : `/${path}`, file);
    }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "ENOTDIR") throw error;
  }
  return files;
}
