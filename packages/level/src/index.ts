/** The public API of the LevelDB backend. */

export { type AnyLevel, type InstanceOptions, type LevelOptions, levelBackend } from "./level-backend.js";
