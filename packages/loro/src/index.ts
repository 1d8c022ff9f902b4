/** The public API of the Loro model. */

export { type LoroModel, type LoroOptions, loro } from "./model.js";
