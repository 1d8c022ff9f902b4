/** The public API of the LevelDB backend. */

export type { LevelDamage } from "./examination.js";
export { type AnyLevel, type InstanceOptions, type LevelOptions, levelBackend } from "./level-backend.js";
export { examineLevel } from "./level-examination.js";
