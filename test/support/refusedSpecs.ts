/**
 * Specs that are refused: one of each kind, what is wrong with it and where. For every way in.
 */
import { type Json, least } from "./fixtures.ts"

const role = (more: Json): Json => ({ ...least, cluster: { roles: [{ name: "r", ...more }], databases: [] } })
const database = (more: Json): Json => ({
  ...least,
  cluster: { roles: [], databases: [{ name: "d", owner: "r", ...more }] }
})
const options = (name: string, value: string | null, vartype = "enum") => ({ options: [{ name, value, vartype }] })
const delta = (action: string, name: string, to?: string): Json => ({
  ...least,
  delta_operations: [{ action, name, ...(to === undefined ? {} : { new_name: to }) }]
})
const setting = (name: string, value: string): Json => ({
  ...least,
  cluster: { roles: [], databases: [], settings: [{ name, value, vartype: "integer" }] }
})

const password = "cluster.roles[0].encrypted_password"
const ofRole = (part: string) => `cluster.roles[0].options[0].${part}`
const ofDatabase = (part: string) => `cluster.databases[0].options[0].${part}`

/** No answer may hold it. */
export const clearText = "hunter2"

export const refusedSpecs: ReadonlyArray<readonly [what: string, spec: Json, path: string]> = [
  ["a receiver of logs without a port", { ...least, logs_export_host: "logs.example" }, "logs_export_host"],
  ["a receiver of logs with two ports", { ...least, logs_export_host: "logs.example:1:2" }, "logs_export_host"],
  ["an empty password", role({ encrypted_password: "" }), password],
  ["a password in the clear", role({ encrypted_password: clearText }), password],
  ["half a verifier", role({ encrypted_password: "SCRAM-SHA-256$4096:a" }), password],
  [
    "a verifier whose keys are too short",
    role({ encrypted_password: `SCRAM-SHA-256$4096:c2FsdA==$${"A".repeat(40)}:${"A".repeat(40)}` }),
    password
  ],
  [
    "a verifier that is too long",
    role({
      encrypted_password: `SCRAM-SHA-256$4096:${"c2Fs".repeat(120)}$${"A".repeat(43)}=:${"A".repeat(43)}=`
    }),
    password
  ],
  ["a role without a name", role({ name: "" }), "cluster.roles[0].name"],
  ["a name that Postgres would cut", role({ name: "\u00e9".repeat(32) }), "cluster.roles[0].name"],
  ["a name with a NUL byte", role({ name: "a\0b" }), "cluster.roles[0].name"],
  ["the role public", role({ name: "public" }), "cluster.roles[0].name"],
  ["the role none", role({ name: "none" }), "cluster.roles[0].name"],
  ["a role of Postgres", role({ name: "pg_x" }), "cluster.roles[0].name"],
  ["a role of this program", role({ name: "compute_ctl_leaving_1" }), "cluster.roles[0].name"],
  ["the private template", database({ name: "template_compute_ctl" }), "cluster.databases[0].name"],
  ["a database without a name", database({ name: "" }), "cluster.databases[0].name"],
  ["an owner that is no role", database({ owner: "none" }), "cluster.databases[0].owner"],
  ["an option that is none of a role", role(options("FROBNICATE", null)), ofRole("name")],
  ["a password among the options", role(options("PASSWORD", clearText)), ofRole("value")],
  ["a limit of a role that is no number", role(options("CONNECTION LIMIT", "many")), ofRole("value")],
  ["a flag with a value that is none", role(options("CREATEDB", "perhaps")), ofRole("value")],
  ["a time that is no text", role(options("VALID UNTIL", "infinity")), ofRole("value")],
  ["a SYSID that is no number", role(options("SYSID", "one")), ofRole("value")],
  ["a group that is no role", role(options("IN ROLE", "public")), ofRole("value")],
  ["members that are no roles", role(options("ADMIN", "a, none")), ofRole("value")],
  [
    "an option of a role said twice",
    role({ options: ["LOGIN", "NOLOGIN"].map((name) => ({ name, value: null, vartype: "bool" })) }),
    "cluster.roles[0].options[1].name"
  ],
  ["an option that is none of a database", database(options("FROBNICATE", null)), ofDatabase("name")],
  ["more than one word", database(options("TEMPLATE", "a; b")), ofDatabase("value")],
  ["a limit of a database that is no number", database(options("CONNECTION LIMIT", "-2")), ofDatabase("value")],
  ["a switch of a database that is none", database(options("ALLOW_CONNECTIONS", "perhaps")), ofDatabase("value")],
  ["an owner among the options", database(options("OWNER", "r")), ofDatabase("value")],
  ["a drop of the private template", delta("delete_db", "template_compute_ctl"), "delta_operations[0].name"],
  ["a drop of nothing", delta("delete_role", ""), "delta_operations[0].name"],
  ["a rename without a name", delta("rename_db", "a"), "delta_operations[0].new_name"],
  ["a rename to the private template", delta("rename_db", "a", "template_compute_ctl"), "delta_operations[0].new_name"],
  ["a rename to a role of Postgres", delta("rename_role", "a", "pg_x"), "delta_operations[0].new_name"],
  ["a rename to public", delta("rename_role", "a", "public"), "delta_operations[0].new_name"],
  ["a setting that is no name", setting("a b", "1"), "cluster.settings[0].name"],
  ["a setting of two lines", setting("work_mem", "1\n2"), "cluster.settings[0].value"]
]
