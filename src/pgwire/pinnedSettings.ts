/**
 * The start-up options of our own sessions: every setting that a database or a role can have (`ALTER DATABASE … SET`,
 * `ALTER ROLE … SET`), or that a spec sets for everybody, and that would change what our sessions do or end them. Pure.
 *
 * Start-up options win over all of them. An option that the server does not know ends the log-in, as does one that only
 * a superuser may set, so each says since which major version there is one and for whom. Not pinned is what a server
 * has of its own and what only makes us slower: memory, planner, `synchronous_commit`, `dynamic_library_path`.
 */

interface PinnedSetting {
  readonly name: string
  readonly value: string
  /** The oldest major version that knows it; absent: all that we support (14 and later). */
  readonly since?: number
  /** The first major version that needs it no more. */
  readonly until?: number
  readonly superuser?: true
  /** Only sessions that change the catalog. */
  readonly applying?: true
  /** What every user's session meets, too: left out to find out whether one could begin. */
  readonly libraries?: true
}

const pin = (name: string, value: string, other: Omit<PinnedSetting, "name" | "value"> = {}): PinnedSetting => ({
  name,
  value,
  ...other
})

const bySuperuser = { superuser: true } as const

const settings: ReadonlyArray<PinnedSetting> = [
  // What would end a session, or keep it from beginning.
  pin("statement_timeout", "0"),
  pin("lock_timeout", "0"),
  pin("idle_in_transaction_session_timeout", "0"),
  pin("idle_session_timeout", "0"),
  pin("transaction_timeout", "0", { since: 17 }),
  pin("client_connection_check_interval", "0"),
  pin("tcp_user_timeout", "0"),
  pin("exit_on_error", "off"),
  pin("local_preload_libraries", "", { libraries: true }),
  pin("session_preload_libraries", "", { libraries: true, superuser: true }),
  pin("temp_file_limit", "-1", bySuperuser),
  // What runs along with our statements: triggers on log-in and on DDL, and compilers.
  pin("event_triggers", "off", { since: 17, superuser: true }),
  pin("session_replication_role", "origin", { since: 17, superuser: true }),
  // Before there was `event_triggers`, this is what keeps ordinary event triggers from firing.
  pin("session_replication_role", "replica", { until: 17, superuser: true, applying: true }),
  pin("jit", "off"),
  // What our statements mean.
  pin("search_path", ""),
  pin("standard_conforming_strings", "on"),
  pin("backslash_quote", "safe_encoding"),
  pin("array_nulls", "on"),
  pin("transform_null_equals", "off"),
  pin("row_security", "on"),
  pin("restrict_nonsystem_relation_kind", "", { since: 17 }),
  pin("check_function_bodies", "on"),
  pin("xmloption", "content"),
  pin("createrole_self_grant", "", { since: 16 }),
  pin("default_transaction_read_only", "off"),
  pin("default_transaction_isolation", "read committed"),
  pin("default_transaction_deferrable", "off"),
  pin("default_tablespace", ""),
  pin("temp_tablespaces", ""),
  pin("default_table_access_method", "heap"),
  pin("default_toast_compression", "pglz"),
  // How values are read and written.
  pin("client_encoding", "UTF8"),
  pin("DateStyle", "ISO, MDY"),
  pin("IntervalStyle", "postgres"),
  pin("TimeZone", "UTC"),
  pin("bytea_output", "hex"),
  pin("extra_float_digits", "1"),
  pin("quote_all_identifiers", "off"),
  pin("client_min_messages", "notice"),
  pin("lc_messages", "C", bySuperuser),
  // What would write our statements, secrets included, into the log.
  pin("debug_print_parse", "off"),
  pin("debug_print_rewritten", "off"),
  pin("debug_print_plan", "off"),
  pin("backtrace_functions", "", bySuperuser)
]

/** What is known about the server and about us there. */
export interface PinningFor {
  readonly user: string
  /** `null`: not known yet. Then only what every version knows is pinned. */
  readonly major: number | null
  readonly superuser: boolean
  /** Whether the session changes the catalog. */
  readonly applying: boolean
  /** Whether libraries are preloaded as for any user. */
  readonly libraries: boolean
}

const applies =
  ({ applying, libraries, major, superuser }: PinningFor) =>
  (one: PinnedSetting): boolean =>
    (one.since === undefined || (major !== null && major >= one.since)) &&
    (one.until === undefined || (major !== null && major < one.until)) &&
    (superuser || one.superuser === undefined) &&
    (applying || one.applying === undefined) &&
    (!libraries || one.libraries === undefined)

/** In `options`, what is not an option's end has to be escaped. */
const escape = (value: string): string => value.replace(/[\\ ]/g, "\\$&")

/** `session_authorization` and `role` are the user itself: a database may have either, and would make us its tenant. */
export const pinnedOptions = (about: PinningFor): string =>
  [pin("session_authorization", about.user), pin("role", about.user), ...settings.filter(applies(about))]
    .map(({ name, value }) => `-c ${name}=${escape(value)}`)
    .join(" ")
