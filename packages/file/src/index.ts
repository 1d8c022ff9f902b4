/** The public API of the file log backend. */

export { type FileLogFactory, type FileLogOptions, fileLogBackend } from "./file-log-backend.js";
export type { OpenFile, OpenFiles, OpenMode, StoreFiles } from "./files.js";
export { type FrameRecord, type ListedFrame, listFrames } from "./listing.js";
export { checkFileLog, type FileLogCheckOptions, type FileLogDamage, type FileLogReport } from "./repair.js";
export type { FileLogStats } from "./stats.js";
