/** The public API of `@coppice/yjs/dropins`: durable storage for Y.Docs that somebody else owns. */

export {
  type BindingFailure,
  type BindingOptions,
  bindDoc,
  type DocBinding,
  type Durability,
} from "./binding.js";
export { checkUpdate } from "./check.js";
export type { YjsStorage } from "./loading.js";
export {
  type WebsocketPersistence,
  type WebsocketPersistenceOptions,
  websocketPersistence,
} from "./websocket-persistence.js";
