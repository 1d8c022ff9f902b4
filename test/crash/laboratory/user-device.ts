/**
 * A block device in user space, with an ext4 on it: nbdkit serves an image, nbdfuse shows it as a file, and
 * a loop device makes a disk of that. Its cache is lost when nbdkit is killed (`volatile`), or its writes
 * fail while a file exists (`failing`). Needs root, FUSE and both tools. Everything is undone by `remove`.
 */

import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export type DeviceKind = "volatile" | "failing";

export function deviceMissing(): string | undefined {
  if (process.platform !== "linux") return "loop devices need Linux";
  if (process.getuid?.() !== 0) return "mounting needs root";
  if (!existsSync("/dev/fuse")) return "there is no FUSE here";
  for (const tool of ["nbdkit", "nbdfuse", "mkfs.ext4", "losetup"]) {
    if (spawnSync(tool, ["--help"]).error !== undefined) return `${tool} is not installed`;
  }
  return spawnSync("losetup", ["-f"]).status === 0 ? undefined : "there is no free loop device";
}

export class UserDevice {
  readonly mountPoint: string;
  readonly #folder: string;
  readonly #image: string;
  readonly #trigger: string;
  #server: ChildProcess | undefined;
  #fuse: ChildProcess | undefined;
  #loop = "";

  private constructor(folder: string) {
    this.#folder = folder;
    this.#image = join(folder, "disk.img");
    this.#trigger = join(folder, "fail");
    this.mountPoint = join(folder, "mnt");
  }

  static async make(kind: DeviceKind, folder: string): Promise<UserDevice> {
    const device = new UserDevice(folder);
    mkdirSync(device.mountPoint, { recursive: true });
    execFileSync("truncate", ["-s", "128M", device.#image]);
    execFileSync("mkfs.ext4", ["-q", "-F", device.#image], { stdio: "pipe" });
    await device.#start(kind);
    return device;
  }

  /** From now on, or no longer, every write of the device fails with EIO. */
  fail(failing: boolean): void {
    if (failing) writeFileSync(this.#trigger, "");
    else rmSync(this.#trigger, { force: true });
  }

  /**
   * The device is gone, and with it what its cache had not flushed; then the image is mounted by itself.
   */
  async replug(): Promise<void> {
    this.#server!.kill("SIGKILL");
    await this.#detach();
    execFileSync("mount", ["-o", "loop", this.#image, this.mountPoint], { stdio: "pipe" });
  }

  async remove(): Promise<void> {
    await unmount(this.mountPoint);
    await this.#detach();
  }

  async #start(kind: DeviceKind): Promise<void> {
    const [socket, pid, raw] = ["socket", "pid", "raw"].map((name) => join(this.#folder, name)) as [
      string,
      string,
      string,
    ];
    const filter = kind === "volatile" ? ["--filter=cache"] : ["--filter=error"];
    const options =
      kind === "volatile"
        ? ["cache=writeback"]
        : ["error=EIO", "error-pwrite-rate=100%", `error-file=${this.#trigger}`];
    const serving = ["-f", "-U", socket, "-P", pid, ...filter, "file", this.#image, ...options];
    this.#server = spawn("nbdkit", serving, { stdio: "ignore" });
    await until("nbdkit serves", () => existsSync(pid) && readFileSync(pid, "utf8").trim() !== "");
    writeFileSync(raw, "");
    this.#fuse = spawn("nbdfuse", [raw, `nbd+unix:///?socket=${socket}`], { stdio: "ignore" });
    await until("nbdfuse shows the device", () => statSync(raw).size > 0);
    // Without direct I/O the loop device's own cache would hide the errors.
    const direct = ["--direct-io=on", "-f", "--show", raw];
    this.#loop = execFileSync("losetup", direct, { encoding: "utf8" }).trim();
    execFileSync("mount", [this.#loop, this.mountPoint], { stdio: "pipe" });
  }

  async #detach(): Promise<void> {
    if (this.#loop === "") return;
    await unmount(this.mountPoint);
    spawnSync("losetup", ["-d", this.#loop]);
    this.#loop = "";
    spawnSync("umount", ["-l", join(this.#folder, "raw")]);
    for (const child of [this.#fuse, this.#server]) {
      if (child === undefined || child.exitCode !== null || child.signalCode !== null) continue;
      child.kill("SIGKILL");
      await once(child, "exit");
    }
  }
}

async function unmount(mountPoint: string): Promise<void> {
  const mounted = () => readFileSync("/proc/mounts", "utf8").includes(` ${mountPoint} `);
  for (let attempt = 0; mounted(); attempt++) {
    spawnSync("umount", attempt < 40 ? [mountPoint] : ["-l", mountPoint]);
    if (attempt > 80) throw new Error(`cannot unmount ${mountPoint}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

async function until(what: string, holds: () => boolean): Promise<void> {
  for (let attempt = 0; !holds(); attempt++) {
    if (attempt > 400) throw new Error(`never happened: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}
