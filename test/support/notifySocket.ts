/**
 * The socket of a service manager, as systemd has it: Node has no such sockets, so perl listens.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { spawn } from "node:child_process"
import { eventually } from "./waiting.ts"

const receiver = [
  "use Socket; $| = 1; my $at = $ARGV[0]; $at =~ s/^@/\\0/;",
  "socket(S, PF_UNIX, SOCK_DGRAM, 0) or die; bind(S, pack_sockaddr_un($at)) or die;",
  'print "bound\\n"; while (defined recv(S, my $m, 65536, 0)) { $m =~ s/\\n/ /g; print "$m\\n" }'
].join(" ")

/** Each message that came, its assignments joined by a space. A name that begins with `@` is an abstract one. */
export const notifySocket = (name: string): Effect.Effect<() => ReadonlyArray<string>, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const child = spawn("perl", ["-e", receiver, name], { stdio: ["ignore", "pipe", "inherit"] })
      let text = ""
      child.stdout.on("data", (chunk: Buffer) => void (text += chunk.toString()))
      return { child, lines: () => text.trimEnd().split("\n") }
    }),
    ({ child }) => Effect.sync(() => void child.kill("SIGKILL"))
  ).pipe(
    Effect.tap(({ lines }) => eventually("a socket", () => lines()[0] === "bound")),
    Effect.map(
      ({ lines }) =>
        () =>
          lines().slice(1)
    )
  )
