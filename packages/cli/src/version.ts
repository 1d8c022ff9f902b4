/**
 * The version that `coppice --version` prints. A constant, so that the command reads no file for it; a test
 * holds it equal to package.json.
 */

export const VERSION = "0.1.0";
