/**
 * A real file system in a file, on a loop device, whose power can be cut: the shutdown call of ext4 and XFS
 * stops it at once, and what had not reached its file is gone. Needs root. Everything is undone by
 * `remove`.
 *
 * The next mount runs the file system's own recovery. A busy mount is tried again until it lets go: one
 * that stays in the shut-down state would look like a disk that fails.
 */

import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";

export type FileSystem = "ext4" | "xfs";

const MAKE: Readonly<Record<FileSystem, readonly string[]>> = {
  ext4: ["mkfs.ext4", "-q", "-F"],
  xfs: ["mkfs.xfs", "-q", "-f"],
};
/** XFS refuses less. */
const SIZE_MIB = 400;
/** FS_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are one number; 2: without flushing the log. */
const SHUT_DOWN = `
import fcntl, os, struct, sys
for line in sys.stdin:
    file = os.open(line[:-1], os.O_RDONLY)
    fcntl.ioctl(file, 0x8004587d, struct.pack("I", 2))
    os.close(file)
    print("cut", flush=True)
`;

/** Why there can be no such disk here; `undefined` when there can. */
export function loopMissing(kind: FileSystem): string | undefined {
  if (process.platform !== "linux") return "loop devices need Linux";
  if (process.getuid?.() !== 0) return "mounting needs root";
  for (const tool of [MAKE[kind][0]!, "losetup", "python3"]) {
    if (spawnSync(tool, ["--help"]).error !== undefined) return `${tool} is not installed`;
  }
  const free = spawnSync("losetup", ["-f"]);
  return free.status === 0 ? undefined : "there is no free loop device";
}

export class LoopDisk {
  readonly kind: FileSystem;
  readonly mountPoint: string;
  readonly #image: string;
  /** Waits at its standard input: while another were started the callers would go on for a tenth of a second. */
  readonly #switch: ChildProcess;
  readonly #cuts: AsyncIterator<string>;

  /** Makes the file system and mounts it. */
  constructor(kind: FileSystem, folder: string) {
    this.kind = kind;
    this.#image = join(folder, `${kind}.img`);
    this.mountPoint = join(folder, kind);
    mkdirSync(this.mountPoint, { recursive: true });
    execFileSync("truncate", ["-s", `${SIZE_MIB}M`, this.#image]);
    const [tool, ...flags] = MAKE[kind];
    execFileSync(tool!, [...flags, this.#image], { stdio: "pipe" });
    this.mount();
    this.#switch = spawn("python3", ["-I", "-S", "-c", SHUT_DOWN], { stdio: ["pipe", "pipe", "inherit"] });
    this.#cuts = createInterface({ input: this.#switch.stdout! })[Symbol.asyncIterator]();
  }

  mount(): void {
    execFileSync("mount", ["-o", "loop", this.#image, this.mountPoint], { stdio: "pipe" });
  }

  /** The power goes. Files that are open stay open, and fail. */
  async cut(): Promise<void> {
    this.#switch.stdin!.write(`${this.mountPoint}\n`);
    const { value } = await this.#cuts.next();
    if (value !== "cut") throw new Error(`the power of ${this.mountPoint} cannot be cut`);
  }

  async unmount(): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      const { status, stderr } = spawnSync("umount", [this.mountPoint], { encoding: "utf8" });
      if (status === 0) return;
      if (attempt === 200) throw new Error(`cannot unmount ${this.mountPoint}: ${stderr}`);
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }

  async remove(): Promise<void> {
    this.#switch.stdin!.end();
    await this.unmount();
    rmSync(this.#image, { force: true });
  }
}
