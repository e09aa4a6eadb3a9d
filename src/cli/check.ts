/**
 * `compute_ctl check`: is a storage of this machine as it was written? Prints, exits with 0 or 1, changes nothing.
 */
import * as Effect from "effect/Effect"
import * as path from "node:path"
import { causesOf, failed, hintOf } from "../errors/policy.ts"
import { checkStorage } from "../storage/local/check.ts"
import { checkVolume } from "../storage/volume/check.ts"

type Print = (text: string) => void

/** The exit code. What is damaged goes to the same place as what is whole: it is the answer, not a failure. */
export const checkCommand = (
  { directory, storage }: { readonly storage: "local" | "volume"; readonly directory: string },
  out: Print,
  err: Print
): Effect.Effect<number> =>
  (storage === "local" ? checkStorage : checkVolume)(path.resolve(directory)).pipe(
    Effect.map(({ isWhole, lines }) => {
      out(`${lines.join("\n")}\n`)
      return isWhole ? 0 : failed
    }),
    Effect.catch((failure) =>
      Effect.sync(() => {
        err(`${causesOf(failure).join(": ")} (hint: ${hintOf(failure)})\n`)
        return failed
      })
    )
  )
