/**
 * What child processes inherit of our environment: what a program needs to find its libraries, locale, time zone and
 * certificates, and nothing else. Pure.
 *
 * An allow list, because code that runs in Postgres (PL/Python, `COPY … FROM PROGRAM`) reads the whole environment,
 * and ours may hold anybody's secrets: `OTEL_EXPORTER_OTLP_HEADERS`, `AWS_*`, `PGPASSWORD`, a control plane's token.
 * Left out on purpose: `PG…` variables of libpq and of the server (they would redirect a child, or be settings that no
 * spec gave), proxies (their URLs carry passwords, and no child of ours fetches anything), `NODE_*`, and what systemd
 * says to its own child (`NOTIFY_SOCKET`). What a child needs beyond this, its spawn request says.
 *
 * The launcher tunes the allocator for our process. Those variables (`COMPUTE_CTL_OWN_VARIABLES` has their names) are
 * not for children: Postgres would ask the kernel for each large block anew.
 */

export type Environment = Readonly<Record<string, string | undefined>>

const allowed: ReadonlySet<string> = new Set(
  [
    "PATH HOME USER LOGNAME SHELL TERM TMPDIR",
    // Language and time.
    "LANG LANGUAGE LOCPATH LOCALE_ARCHIVE NLSPATH TZ TZDIR ICU_DATA",
    // TLS and Kerberos: paths of files.
    "OPENSSL_CONF OPENSSL_MODULES SSL_CERT_FILE SSL_CERT_DIR KRB5_CONFIG",
    // Postgres's own for its children.
    "PG_OOM_ADJUST_FILE PG_OOM_ADJUST_VALUE",
    // Where procedural languages and PostGIS find their files, and what PostGIS may read.
    "PYTHONHOME PYTHONPATH PERL5LIB TCLLIBPATH R_HOME JAVA_HOME PROJ_DATA PROJ_LIB PROJ_NETWORK",
    "GDAL_DATA GDAL_DRIVER_PATH POSTGIS_ENABLE_OUTDB_RASTERS POSTGIS_GDAL_ENABLED_DRIVERS",
    // Allocators, sanitizers, profiles and logs of builds that are looked into.
    "GLIBC_TUNABLES ASAN_OPTIONS UBSAN_OPTIONS LSAN_OPTIONS TSAN_OPTIONS LLVM_PROFILE_FILE RUST_LOG RUST_BACKTRACE"
  ].flatMap((names) => names.split(" "))
)

/** Locale, the dynamic loader's, and allocators'. */
const allowedBeginnings = ["LC_", "LD_", "DYLD_", "MALLOC_"]

export const inheritable = (environment: Environment): Environment => {
  const ours = new Set(environment["COMPUTE_CTL_OWN_VARIABLES"]?.split(" "))
  return Object.fromEntries(
    Object.entries(environment).filter(
      ([name]) =>
        !ours.has(name) && (allowed.has(name) || allowedBeginnings.some((beginning) => name.startsWith(beginning)))
    )
  )
}
