import * as Effect from "effect/Effect"
import { applySpec } from "/work/main/src/sql/Applier.ts"
import { adminOf, database, options, role, scram, specOf, verifier } from "/work/main/test/sql/fixture.ts"
import { startPostgres } from "/work/main/test/support/postgres.ts"
const shared = scram("x")
const spec = specOf({ roles: Array.from({length:100},(_, i)=>role(`r${i}`, verifier(shared))), databases: Array.from({length:100},(_, i)=>database(`d${i}`,`r${i}`))})
for (let i = 0; i < 3; i++) await Effect.runPromise(Effect.scoped(Effect.gen(function*(){
  const pg = yield* startPostgres({ major: 17, settings: { fsync: "off", max_connections: "100" } })
  const r = yield* Effect.provide(applySpec({kind:"start",spec}, {...options, fileCopy: process.argv[2]==="copy"}), adminOf(pg))
  console.log(r.millis, r.roundTrips, r.phases.map(p=>`${p.phase} ${p.millis}`).join(", "))
  const r2 = yield* Effect.provide(applySpec({kind:"start",spec}, {...options, fileCopy: process.argv[2]==="copy"}), adminOf(pg))
  console.log("again", r2.millis)
})))
