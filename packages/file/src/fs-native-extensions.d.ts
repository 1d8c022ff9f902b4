/**
 * What is used of fs-native-extensions, which has no declarations of its own: locks of open file
 * descriptions. Nothing else of it is used.
 */

declare module "fs-native-extensions" {
  const extensions: {
    /** `false` when somebody else holds a lock on the file. */
    tryLock(descriptor: number): boolean;
  };
  // CommonJS: what it exports is the default.
  export = extensions;
}
