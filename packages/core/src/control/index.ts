/** For Node: lets the process that owns a store work for others, which cannot open it. */

export { compactAllAlone } from "./alone.js";
export { findOwner, type StoreOwner } from "./ask.js";
export { type Control, type ControlledStorage, offerControl } from "./offer.js";
