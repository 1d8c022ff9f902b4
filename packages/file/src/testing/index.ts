/** `@coppice/file/testing`: a simulated disk below the file log, for tests of what it promises. */

export {
  type CrashModel,
  crashModels,
  type DiskImage,
  type DiskOperation,
  failure,
  SimulatedDisk,
} from "./simulated-disk.js";
