/**
 * A Debian of debootstrap's smallest kind with a Node and an npm of npm's in it, and no more; for the proofs that need
 * such a machine. Needs root, a mirror of Debian (`DEBIAN_MIRROR`, `DEBIAN_SUITE`) and npm's registry.
 */
import { execFileSync, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"

export const checkout = path.resolve(import.meta.dirname, "..")
const suite = process.env["DEBIAN_SUITE"] ?? "bookworm"
export const mirror = process.env["DEBIAN_MIRROR"] ?? "http://deb.debian.org/debian"
const platform = `linux-${process.arch}`
export const within = 900_000

/** Ends with exit code 2: nothing was proven, and nothing is wrong. */
export const cannot = (why: string): never => {
  process.stderr.write(`this was not tried: ${why}\n`)
  process.exit(2)
}
export const run = (command: string, args: ReadonlyArray<string>, env = process.env, cwd = checkout): string =>
  execFileSync(command, args, { cwd, env, encoding: "utf8", timeout: within, stdio: ["ignore", "pipe", "pipe"] })

const has = (command: string): boolean => spawnSync("sh", ["-c", `command -v ${command}`]).status === 0

/** Its environment and command: the machine's own, or the package's unpacked into the work folder. */
const debootstrap = (work: string): readonly [string, NodeJS.ProcessEnv] => {
  if (has("debootstrap")) return ["debootstrap", process.env]
  if (!has("apt-get")) return cannot("there is no debootstrap, and no apt-get to fetch it by")
  const at = path.join(work, "debootstrap")
  fs.mkdirSync(at, { mode: 0o777 })
  try {
    run("apt-get", ["download", "debootstrap"], process.env, at)
  } catch (cause) {
    return cannot(`apt-get cannot fetch debootstrap: ${String(cause)}`)
  }
  const [file = ""] = fs.readdirSync(at)
  run("dpkg", ["-x", path.join(at, file), at])
  return [path.join(at, "usr/sbin/debootstrap"), { ...process.env, DEBOOTSTRAP_DIR: `${at}/usr/share/debootstrap` }]
}

/** `work` is a folder that others may pass through. */
export const makeRoot = (work: string, node: string, npm: string): string => {
  if (process.getuid?.() !== 0) return cannot("debootstrap and chroot need root")
  const root = path.join(work, "root")
  const [command, env] = debootstrap(work)
  run(command, ["--variant=minbase", suite, root, mirror], env)
  const prefix = path.join(root, "usr/local")
  run("npm", ["install", "--silent", "--global", "--prefix", prefix, `node-${platform}@${node}`, `npm@${npm}`])
  fs.copyFileSync("/etc/resolv.conf", path.join(root, "etc/resolv.conf"))
  return root
}

/** The working tree, but for what git ignores. */
export const copyCheckout = (to: string): void => {
  for (const file of run("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).split("\0")) {
    if (file !== "" && fs.existsSync(path.join(checkout, file))) {
      fs.cpSync(path.join(checkout, file), path.join(to, file))
    }
  }
}

/** Certificates of this machine's own, where it says that Node needs them. */
export const certificates = (root: string): Readonly<Record<string, string>> => {
  const file = process.env["NODE_EXTRA_CA_CERTS"]
  if (file === undefined) return {}
  fs.copyFileSync(file, path.join(root, "extra-certificates.pem"))
  return { NODE_EXTRA_CA_CERTS: "/extra-certificates.pem" }
}
