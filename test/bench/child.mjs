/**
 * A process of its own for what is measured: its memory, its compiled code and its garbage are of one side alone, as
 * in a server. One task goes in, one result comes out.
 */
import { fork } from "node:child_process";
import { join } from "node:path";

/** Runs a file of this folder that calls `answer`. Rejects when it ends without a result. */
export function runChild(file, task) {
  const child = fork(join(import.meta.dirname, file), [], {
    execArgv: ["--expose-gc"],
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  return new Promise((resolve, reject) => {
    let result;
    child.on("message", (message) => {
      result = message;
    });
    child.on("error", reject);
    child.on("exit", (code) => {
      if (result === undefined)
        reject(new Error(`the measured process ended with ${code} before its result`));
      else resolve(result);
    });
    child.send(task);
  });
}

/** In the child: does the task, sends its result, and ends. */
export function answer(run) {
  process.once("message", (task) => {
    run(task).then(
      (result) => process.send(result, () => process.disconnect()),
      (error) => {
        console.error(error);
        process.exit(1);
      },
    );
  });
}
