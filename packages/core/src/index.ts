/** The public API of core on one screen. */

export { compareBytes, concatBytes, equalBytes, fromHex, Reader, toHex, Writer } from "./base/bytes.js";
export { crc32 } from "./base/checksum.js";
export { type Env, systemEnv } from "./base/env.js";
export {
  CoppiceError,
  ERROR_CODES,
  type ErrorCode,
  type ErrorDetails,
  type ErrorKind,
  isCoppiceError,
} from "./base/errors.js";
export { LIMITS, type Limits } from "./base/limits.js";
export type {
  Backend,
  BackendFactory,
  Batch,
  Deletion,
  Durability,
  Entry,
  Expectation,
  Key,
  Range,
  ScanOptions,
  Traits,
} from "./contract/backend.js";
export { binaryCodec } from "./contract/codec.js";
export { commitConflict } from "./contract/group-commit.js";
export { Guard } from "./contract/guard.js";
export {
  checkId,
  checkKey,
  checkRange,
  compareKeys,
  decodeKey,
  encodeKey,
  encodeRange,
  isRangeDeletion,
  keyName,
} from "./contract/keys.js";
export type { AnyModel, Applied, Folded, Model, Refusal, StoredState, Tracker } from "./contract/model.js";
