/**
 * On which addresses a process listens, by Linux's `/proc/PID/net/tcp` and the sockets that it has open. Elsewhere, and
 * where `/proc` does not show it, nothing is known.
 */
import * as fs from "node:fs"
import * as net from "node:net"
import { codeOf } from "../errors/errno.ts"

/** `0100007F` is 127.0.0.1; of IPv6 four such words. Each word has the byte order of the machine: little-endian. */
const addressOf = (hex: string): string => {
  const bytes = hex.match(/.{8}/g)?.flatMap((word) => [...Buffer.from(word, "hex")].reverse()) ?? []
  if (bytes.length === 4) return bytes.join(".")
  return (Buffer.from(bytes).toString("hex").match(/.{4}/g) ?? []).join(":")
}

const listening = "0A"

interface Row {
  readonly address: string
  readonly inode: string
}

/** Empty without that family. Off our thread: the kernel looks at every place where a connection could be. */
const tableOf = (file: string): Promise<string> =>
  fs.promises.readFile(file, "utf8").catch((cause: unknown) => {
    if (codeOf(cause) === "ENOENT") return ""
    throw cause
  })

/** Addresses of listening sockets on this port, with the sockets' inodes. */
const rowsOf = async (pid: number, port: number): Promise<ReadonlyArray<Row>> => {
  const tables = await Promise.all(["tcp", "tcp6"].map((table) => tableOf(`/proc/${pid}/net/${table}`)))
  return tables
    .flatMap((text) => text.split("\n").slice(1))
    .flatMap((row) => {
      const [, local = "", , state, , , , , , inode = ""] = row.trim().split(/\s+/)
      const [address = "", hexPort = ""] = local.split(":")
      return state === listening && Number.parseInt(hexPort, 16) === port
        ? [{ address: addressOf(address), inode }]
        : []
    })
}

const socketsOf = (pid: number): ReadonlySet<string> =>
  new Set(
    fs.readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
      try {
        return [/^socket:\[(\d+)\]$/.exec(fs.readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1] ?? ""]
      } catch (cause) {
        // Closed meanwhile. Where we may not look (root without CAP_SYS_PTRACE, as in a container) nothing is known.
        if (codeOf(cause) === "ENOENT") return []
        throw cause
      }
    })
  )

/** Whether a connection to `address` (no name) and `port` comes to this process; `null`: it is not known. */
export const listensOn = async (pid: number, address: string, port: number): Promise<boolean | null> => {
  try {
    const kind = net.isIP(address) === 6 ? "ipv6" : "ipv4"
    const own = socketsOf(pid)
    return (await rowsOf(pid, port)).some((row) => {
      if (!own.has(row.inode) || net.isIP(row.address) !== net.isIP(address)) return false
      const list = new net.BlockList()
      list.addAddress(row.address, kind)
      return list.check(address, kind) || list.check(kind === "ipv6" ? "::" : "0.0.0.0", kind)
    })
  } catch {
    return null
  }
}
