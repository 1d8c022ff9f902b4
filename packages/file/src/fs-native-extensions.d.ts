/**
 * What is used of fs-native-extensions, which has no declarations of its own: locks of open file
 * descriptions. Nothing else of it is used.
 */

declare module "fs-native-extensions" {
  const extensions: {
    /** `false` when somebody else holds a lock on these bytes; without them, on the file. */
    tryLock(descriptor: number): boolean;
    tryLock(descriptor: number, offset: number, length: number, options?: { shared: boolean }): boolean;
    unlock(descriptor: number, offset: number, length: number): void;
  };
  // CommonJS: what it exports is the default.
  export = extensions;
}
