/**
 * What a folding thread imports. A file of its own, with a name of its own: an application that is bundled
 * into one file has that file's address as `import.meta.url`, and a thread that imported it would run the
 * application again. Beside a bundle this file does not exist, and folding stays on the calling thread.
 */

export { automerge } from "./model.js";
