/**
 * Runs conformance cases without a test runner, or hands them to one. It knows nothing of backends or models.
 *
 * Invariant: every case appears in the report exactly once, as passed, failed, inconclusive or skipped, with
 * its reason; a case that hangs fails. Inconclusive is not green: under a test runner it rejects.
 */

import { systemEnv } from "../base/env.js";
import { type Case, CaseFailure, CaseInconclusive } from "./cases.js";

export interface CaseResult {
  readonly rule: string;
  readonly title: string;
  /** `inconclusive`: it ran, and what it is about did not come about (a race that was none). */
  readonly status: "passed" | "failed" | "inconclusive" | "skipped";
  /** Why it was skipped or inconclusive, or the message of its failure. */
  readonly reason?: string;
  readonly error?: unknown;
  readonly durationMs: number;
}

export interface Report {
  readonly subject: string;
  readonly passed: number;
  readonly failed: number;
  readonly inconclusive: number;
  readonly skipped: number;
  readonly results: readonly CaseResult[];
}

export interface RunOptions {
  /** Called after each case. */
  readonly onResult?: (result: CaseResult) => void;
  /** A case that takes longer fails. Default 60 000. */
  readonly timeoutMs?: number;
}

/**
 * Runs the cases one after another. Resolves with the report also when cases failed. Rejects with a
 * `TypeError` that names the member, before any case, for what is no subject of them.
 */
export async function runCases<Context extends { readonly name: string }>(
  cases: readonly Case<Context>[],
  context: Context,
  options: RunOptions = {},
): Promise<Report> {
  if (!Array.isArray(cases))
    throw new TypeError("runCases wants cases, as in runCases(backendCases, subject)");
  const results: CaseResult[] = [];
  for (const assertSubject of new Set(cases.map((item) => item.assertSubject))) assertSubject?.(context);
  for (const item of cases) {
    const result = await resultOf(item, context, options.timeoutMs ?? 60_000);
    results.push(result);
    options.onResult?.(result);
  }
  const count = (status: CaseResult["status"]) => results.filter((result) => result.status === status).length;
  return {
    subject: context.name,
    passed: count("passed"),
    failed: count("failed"),
    inconclusive: count("inconclusive"),
    skipped: count("skipped"),
    results,
  };
}

/**
 * Runs one case, for test runners: rejects when it fails. When the case cannot be tried, calls `skip` with
 * the reason; without `skip` that rejects too, so that nothing is skipped unseen.
 *
 * `for (const c of backendCases) test(c.name, (t) => runCase(c, subject, (reason) => t.skip(reason)));`
 */
export async function runCase<Context>(
  item: Case<Context>,
  context: Context,
  skip?: (reason: string) => void,
): Promise<void> {
  item.assertSubject?.(context);
  const reason = await item.needs?.(context);
  if (reason === undefined) return item.run(context);
  if (skip === undefined) throw new CaseFailure(`not tried: ${reason}`);
  skip(reason);
}

async function resultOf<Context>(
  item: Case<Context>,
  context: Context,
  timeoutMs: number,
): Promise<CaseResult> {
  const env = systemEnv();
  const started = env.elapsed();
  let skipped: string | undefined;
  const finish = (rest: Pick<CaseResult, "status" | "reason" | "error">): CaseResult => ({
    rule: item.rule,
    title: item.title,
    durationMs: env.elapsed() - started,
    ...rest,
  });
  const timer = new AbortController();
  const late = env.delay(timeoutMs, timer.signal).then(() => {
    throw new CaseFailure(`took longer than ${timeoutMs} ms`);
  });
  try {
    const run = runCase(item, context, (reason) => {
      skipped = reason;
    });
    await Promise.race([run, late]);
    return finish(skipped === undefined ? { status: "passed" } : { status: "skipped", reason: skipped });
  } catch (error) {
    return finish({
      status: error instanceof CaseInconclusive ? "inconclusive" : "failed",
      reason: error instanceof Error ? error.message : String(error),
      error,
    });
  } finally {
    // The delay's rejection is the abort itself; it has nobody left to tell.
    late.catch(() => undefined);
    timer.abort();
  }
}
