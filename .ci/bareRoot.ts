/**
 * README's two commands where there is next to nothing: a Debian of debootstrap's smallest kind with npm's Node 20 and
 * npm 10 in it, and no more. Prints what each took; fails where one fails or npm warns. `npm run proof:bare`: about two
 * minutes and 1.5 GB in the folder for temporary files, as root, where a mirror of Debian and npm's registry answer.
 *
 * All that it starts lives in a mount and process namespace of its own, and ends with it.
 */
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { certificates, copyCheckout, makeRoot, mirror, within } from "./debianRoot.ts"

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
    const said = fs.readFileSync(process.argv[1], "utf8")
    const [, url, file] = /alice connects with psql .(postgresql:[^?]*)[?]passfile=([^\x27]*)/.exec(said)
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

const work = fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-bare-"))
// debootstrap and Postgres go through it as other users.
fs.chmodSync(work, 0o755)
try {
  const began = Date.now()
  const root = makeRoot(work, "20", "10")
  console.log(`a bare root of ${mirror}: ${((Date.now() - began) / 1000).toFixed(1)} s`)
  copyCheckout(path.join(root, "checkout"))
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
