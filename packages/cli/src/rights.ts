/**
 * Whose it is what the system did not let this process open. It only looks, and says nothing where that does
 * not explain it.
 */

import { readFileSync, statSync } from "node:fs";
import { userInfo } from "node:os";
import { dirname } from "node:path";
import { printable } from "./output.js";

/** Who owns what was refused, and who this process is; `undefined`: it is not about that, or nobody knows. */
export function ownerHint(error: unknown): string | undefined {
  const path = refusedPath(error);
  const uid = process.geteuid?.();
  if (path === undefined || uid === undefined) return undefined;
  const there = nearest(path);
  if (there === undefined || there.uid === uid) return undefined;
  const belongs = `${printable(there.path)} belongs to ${nameOf(there.uid)}`;
  return `${belongs}, and this process runs as ${nameOf(uid)}: run it as that user, or give it the right.`;
}

function refusedPath(error: unknown): string | undefined {
  for (let each = error; each instanceof Error; each = each.cause) {
    const { code, path } = each as NodeJS.ErrnoException;
    if ((code === "EACCES" || code === "EPERM") && path !== undefined) return path;
    // LevelDB has no codes of the system.
    const [, ofLevel] = /^IO error: (.+): Permission denied$/.exec(each.message) ?? [];
    if (ofLevel !== undefined) return ofLevel;
  }
  return undefined;
}

/** The path, or what is above it where that does not exist, or cannot be seen. */
function nearest(path: string): { readonly path: string; readonly uid: number } | undefined {
  try {
    return { path, uid: statSync(path).uid };
  } catch {
    const above = dirname(path);
    return above === path ? undefined : nearest(above);
  }
}

function nameOf(uid: number): string {
  try {
    if (uid === process.geteuid?.()) return printable(userInfo().username);
    const lines = readFileSync("/etc/passwd", "utf8").split("\n");
    const name = lines.map((line) => line.split(":")).find(([, , of]) => of === String(uid))?.[0];
    return name === undefined ? `user ${uid}` : printable(name);
  } catch {
    return `user ${uid}`;
  }
}
