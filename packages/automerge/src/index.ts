/** The public API of the Automerge model and of what fits automerge-repo. */

export { decodeHeads, encodeHeads } from "./heads.js";
export { type AutomergeModel, automerge } from "./model.js";
