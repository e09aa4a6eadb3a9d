/**
 * README's two commands where there is next to nothing: a Debian of debootstrap's smallest kind with npm's Node 20 and
 * npm 10 in it, and no more. Prints what each took; fails where one fails or npm warns. `npm run proof:bare`: about two
 * minutes and 1.5 GB in the folder for temporary files, as root, where a mirror of Debian and npm's registry answer.
 *
 * All that it starts lives in a mount and process namespace of its own, and ends with it.
 */
import { execFileSync, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"

const checkout = path.resolve(import.meta.dirname, "..")
const suite = process.env["DEBIAN_SUITE"] ?? "bookworm"
const mirror = process.env["DEBIAN_MIRROR"] ?? "http://deb.debian.org/debian"
const platform = `linux-${process.arch}`
const within = 600_000

const cannot = (why: string): never => {
  process.stderr.write(`the bare root was not tried: ${why}\n`)
  process.exit(2)
}
const run = (command: string, args: ReadonlyArray<string>, env = process.env, cwd = checkout): string =>
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

const makeRoot = (work: string): string => {
  const root = path.join(work, "root")
  const [command, env] = debootstrap(work)
  run(command, ["--variant=minbase", suite, root, mirror], env)
  run("npm", [
    "install",
    "--silent",
    "--global",
    "--prefix",
    path.join(root, "usr/local"),
    `node-${platform}@20`,
    "npm@10"
  ])
  fs.copyFileSync("/etc/resolv.conf", path.join(root, "etc/resolv.conf"))
  return root
}

/** The working tree, but for what git ignores. */
const copyCheckout = (root: string): void => {
  for (const file of run("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).split("\0")) {
    if (file !== "" && fs.existsSync(path.join(checkout, file))) {
      fs.cpSync(path.join(checkout, file), path.join(root, "checkout", file))
    }
  }
}

/** Certificates of this machine's own, where it says that Node needs them. */
const certificates = (root: string): NodeJS.ProcessEnv => {
  const file = process.env["NODE_EXTRA_CA_CERTS"]
  if (file === undefined) return {}
  fs.copyFileSync(file, path.join(root, "extra-certificates.pem"))
  return { NODE_EXTRA_CA_CERTS: "/extra-certificates.pem" }
}

const inside = String.raw`
set -eu
cd /checkout
for missing in ps curl python3 gcc git; do
  ! command -v "$missing" >/dev/null || { echo "this root is not bare: it has $missing"; exit 1; }
done
[ -z "$(ls /usr/lib/*/libatomic* 2>/dev/null)" ] || { echo "this root is not bare: it has libatomic"; exit 1; }
seconds() { date +%s.%N; }
took() { node -p "'$1: ' + ($(seconds) - $2).toFixed(1) + ' s'"; }
echo "$(. /etc/os-release && echo "$PRETTY_NAME"), Node $(node --version), npm $(npm --version)"

begin=$(seconds)
npm ci >/tmp/ci 2>&1 || { cat /tmp/ci; exit 1; }
took "npm ci" "$begin"
cat /tmp/ci
! grep -iE 'warn|EBADENGINE|deprecated' /tmp/ci || { echo "npm ci warns"; exit 1; }

for time in first second; do
  begin=$(seconds)
  npm start >"/tmp/start-$time" 2>&1 &
  npm=$!
  until grep -q 'Postgres is ready' "/tmp/start-$time"; do
    kill -0 "$npm" || { cat "/tmp/start-$time"; exit 1; }
    sleep 0.05
  done
  took "npm start until Postgres is ready, the $time time" "$begin"
  node_modules/.bin/node --input-type=module -e '
    import fs from "node:fs"
    import postgres from "postgres"
    const [, url, file] = /alice connects with psql .(postgresql:[^?]*)[?]passfile=([^\x27]*)/.exec(fs.readFileSync(process.argv[1], "utf8"))
    const sql = postgres(url, { password: fs.readFileSync(file, "utf8").trim().split(":").pop(), onnotice: () => {} })
    await sql.unsafe("create table if not exists kept (n int)")
    await sql.unsafe("insert into kept values (1)")
    const [{ n, version }] = await sql.unsafe("select count(*)::int n, version() from kept")
    console.log("a query: " + n + " rows of " + version.split(" on ")[0])
    await sql.end()' "/tmp/start-$time"
  begin=$(seconds)
  kill -TERM "$npm"
  wait "$npm" || true
  took "its stop" "$begin"
  grep -q 'to terminated: Postgres is gone' "/tmp/start-$time" || { cat "/tmp/start-$time"; exit 1; }
  ! cat /proc/[0-9]*/comm | grep -x postgres || { echo "a Postgres is left"; exit 1; }
done

begin=$(seconds)
npm test -- --project fast test/spec >/tmp/test 2>&1 || { cat /tmp/test; exit 1; }
npm test -- --project real test/program/launcher test/pgwire/Admin >>/tmp/test 2>&1 || { cat /tmp/test; exit 1; }
took "npm test of two small parts" "$begin"
grep -E '^[0-9]+ passed' /tmp/test
`

if (process.getuid?.() !== 0) cannot("debootstrap and chroot need root")
const work = fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-bare-"))
// debootstrap and Postgres go through it as other users.
fs.chmodSync(work, 0o755)
try {
  const began = Date.now()
  const root = makeRoot(work)
  console.log(`a bare root of ${mirror}: ${((Date.now() - began) / 1000).toFixed(1)} s`)
  copyCheckout(root)
  const env = { PATH: "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", HOME: "/root", ...certificates(root) }
  const namespace = ["--mount", "--pid", "--fork", "--kill-child", `--mount-proc=${root}/proc`]
  const { status } = spawnSync("unshare", [...namespace, "chroot", root, "sh", "-c", inside], {
    env,
    stdio: ["ignore", "inherit", "inherit"],
    timeout: within
  })
  process.exitCode = status ?? 1
} finally {
  fs.rmSync(work, { recursive: true, force: true })
}
