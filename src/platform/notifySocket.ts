/**
 * Messages to the service manager that started us: assignments such as `READY=1`, as one datagram to the socket that
 * `NOTIFY_SOCKET` names (the protocol of sd_notify(3)). Decides nothing of what is said.
 *
 * Node has no datagram sockets in the file system, so a helper program sends each message: `systemd-notify` where there
 * is a systemd, perl or python3 in a container whose runtime passes the socket on. (A systemd may look at who sent a
 * message only after a short-lived helper has left, and then does not know whose it is: `systemd-notify` waits until it
 * has been read. Runtimes look at nobody.)
 */
import * as Effect from "effect/Effect"
import type { CommandFailed, SpawnFailed, TimedOut } from "../errors/Failure.ts"
import { runCommand } from "./processes.ts"
import { questionStages } from "./shutdownStages.ts"
import { Spawn } from "./Spawn.ts"

const perl = [
  "use Socket; my $to = $ENV{NOTIFY_SOCKET}; $to =~ s/^@/\\0/;",
  'socket(my $s, PF_UNIX, SOCK_DGRAM, 0) or die "$!\\n";',
  'defined send($s, join("\\n", @ARGV), 0, pack_sockaddr_un($to)) or die "$to: $!\\n"'
].join(" ")

const python = [
  "import os, socket, sys",
  "to = os.environ['NOTIFY_SOCKET']",
  "to = '\\0' + to[1:] if to.startswith('@') else to",
  "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto('\\n'.join(sys.argv[1:]).encode(), to)"
].join("\n")

/** In this order; the message is what follows. */
const helpers: ReadonlyArray<readonly [command: string, ...args: ReadonlyArray<string>]> = [
  ["systemd-notify"],
  ["perl", "-e", perl, "--"],
  ["python3", "-c", python]
]

const sentWithin = "10 seconds"

type NotSent = SpawnFailed | CommandFailed | TimedOut

/** An assignment is one line. */
const onOneLine = (text: string): string => text.replaceAll(/[\r\n]+/g, " ")

/** Sends the assignments as one message. Fails when no helper is there, or the one that is cannot send. */
export const notify = (socket: string, assignments: ReadonlyArray<string>): Effect.Effect<void, NotSent> => {
  const message = assignments.map(onOneLine)
  const send = (index: number): Effect.Effect<void, NotSent, Spawn> => {
    const [command, ...args] = helpers[index] ?? ["systemd-notify"]
    return runCommand(
      {
        command,
        args: [...args, ...message],
        cwd: "/",
        runAs: null,
        stages: questionStages,
        env: { NOTIFY_SOCKET: socket }
      },
      sentWithin
    ).pipe(
      Effect.asVoid,
      Effect.catchTag("SpawnFailed", (missing) => (index + 1 < helpers.length ? send(index + 1) : Effect.fail(missing)))
    )
  }
  return Effect.provide(send(0), Spawn.layer)
}
