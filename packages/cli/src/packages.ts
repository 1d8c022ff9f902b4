/**
 * What is loaded when it is needed: packages, of which one that is not installed is an error that says what
 * to install, and models, those of the user's own module among them. A module is code, and runs only where
 * somebody named it.
 */

import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { type AnyModel, DocumentStorage, memoryBackend, tree } from "coppice";
import { CommandError } from "./errors.js";
import { printable } from "./output.js";

/**
 * Yjs comes with the command; Automerge and Loro bring megabytes of WebAssembly, and are used where they are
 * installed. A document of a model that is not there is `MODEL_UNKNOWN`. `file`: a module whose default
 * export is a model, or a list of them; one takes the place of the command's of the same name. The first is
 * Yjs. `quick`: without the WebAssembly.
 */
export async function loadModels(
  file?: string,
  wanted: "all" | "quick" = "all",
): Promise<readonly AnyModel[]> {
  const own = file === undefined ? [] : await modelsOf(file);
  const slow = wanted === "quick" ? [] : [loadAutomerge(), loadLoro()];
  const loading = loadPackage("@coppice/yjs", () => import("@coppice/yjs"));
  const [{ yjs }, ...others] = await Promise.all([loading, ...slow]);
  const installed = [yjs(), tree(), ...others.filter((model) => model !== undefined)];
  return [...new Map([...installed, ...own].map((model) => [model.name, model])).values()];
}

/** Imports a package, or says what to install. */
export async function loadPackage<T>(name: string, load: () => Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== "ERR_MODULE_NOT_FOUND" || !message.includes(name)) throw error;
    throw new CommandError("FAILED", `the package ${name} is not installed`, {
      hint: `Install it: npm install ${name}`,
      details: { package: name },
      cause: error,
    });
  }
}

function loadAutomerge(): Promise<AnyModel | undefined> {
  return ifInstalled(async () => (await import("@coppice/automerge")).automerge());
}

function loadLoro(): Promise<AnyModel | undefined> {
  return ifInstalled(async () => (await import("@coppice/loro")).loro());
}

/** `undefined` when a package that it needs is not there; other failures are failures. */
export async function ifInstalled<T>(load: () => Promise<T>): Promise<T | undefined> {
  try {
    return await load();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ERR_MODULE_NOT_FOUND") return undefined;
    throw error;
  }
}

async function modelsOf(file: string): Promise<readonly AnyModel[]> {
  const path = resolve(file);
  const named = {
    hint: "As in --models models.mjs, a file with `export default [notes()]`.",
    details: { models: file },
  };
  if (!existsSync(path)) throw new CommandError("NOT_FOUND", `there is no file ${printable(file)}`, named);
  const { default: exported } = await import(pathToFileURL(path).href).catch((cause: Error) => {
    const message = `the models in ${printable(file)} cannot be loaded: ${cause.message}`;
    const hint = `\`node ${printable(file)}\` runs it alone, and shows where.`;
    throw new CommandError("USAGE", message, { cause, hint, details: named.details });
  });
  const models: readonly unknown[] = [exported].flat();
  if (models.length > 0 && models.every(isMeantAsModel)) {
    await assertModels(models, file);
    return models;
  }
  const called = models.some((each) => typeof each === "function") ? "; call the function that makes it" : "";
  const message = `the default export of ${printable(file)} is neither a model nor a list of models${called}`;
  throw new CommandError("USAGE", message, named);
}

function isMeantAsModel(value: unknown): value is AnyModel {
  return typeof value === "object" && value !== null && ("name" in value || "create" in value);
}

/** The library judges, and says which member is missing. */
async function assertModels(models: readonly AnyModel[], file: string): Promise<void> {
  try {
    const storage = await DocumentStorage.open({ backend: memoryBackend(), models });
    await storage.close();
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
    const message = `the models in ${printable(file)} cannot be used: ${cause.message}`;
    throw new CommandError("USAGE", message, { cause, details: { models: file } });
  }
}
