/** The public API of the Hocuspocus extension. */

export {
  DURABLE_MESSAGE,
  type DurableMessage,
  type HocuspocusPersistenceOptions,
  hocuspocusPersistence,
  readDurableMessage,
} from "./hocuspocus-persistence.js";
