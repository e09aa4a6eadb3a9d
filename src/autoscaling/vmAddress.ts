/**
 * Where the vm-monitor listens, as `host:port` text. Looks nothing up.
 */
import * as Result from "effect/Result"

export interface VmAddress {
  readonly host: string
  readonly port: number
}

/** `0.0.0.0:10301`, `[::]:10301`, `localhost:10301`. With port 0 the system chooses. */
export const parseVmAddress = (text: string): Result.Result<VmAddress, string> => {
  const match = /^(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([\w.-]+)):([0-9]{1,5})$/.exec(text)
  const host = match?.[1] ?? match?.[2]
  const port = Number(match?.[3])
  if (host === undefined) return Result.fail("it is not host:port")
  return port > 65_535 ? Result.fail("its port is above 65535") : Result.succeed({ host, port })
}
