/**
 * What single records of Postgres's log mean for its end: Postgres's messages of versions 14 to 18, as clauses. Pure.
 *
 * A server that speaks another language than English (`lc_messages`) gives no clues.
 */

interface Clue {
  readonly pattern: RegExp
  /** Continues a sentence about Postgres: what is wrong. */
  readonly says: string
}

const clue = (pattern: RegExp, says: string): Clue => ({ pattern, says })

const diskFull = "the disk is full"
const quotaUsedUp = "the disk quota is used up"

/** Does a sentence made of these say that there was no room on a disk? */
export const saysFull = (sentence: string): boolean => sentence.includes(diskFull) || sentence.includes(quotaUsedUp)

/**
 * The first that matches a record wins, so the narrow ones come before the wide ones: "No space left on device" is
 * what the kernel says when it is out of semaphores, too.
 */
const clues: ReadonlyArray<Clue> = [
  // Limits of the kernel.
  clue(
    /could not create semaphores|semget\(/,
    "the kernel has too few semaphores for max_connections (SEMMNI, SEMMNS)"
  ),
  clue(
    /could not create shared memory segment|shmget\(/,
    "the kernel has no System V shared memory left to give (SHMMNI, SHMMAX, SHMALL)"
  ),
  clue(
    /could not (resize|write|open) .*shared memory segment|posix_fallocate.*shm/,
    "/dev/shm is full or may not be used: it has no room for shared memory"
  ),
  clue(
    /could not map anonymous shared memory|exceeded available memory, swap space, or huge pages/,
    "there is not enough memory, or there are not enough huge pages, for shared_buffers and max_connections"
  ),
  clue(/huge pages not supported/, "huge_pages is on, and this system has none"),
  clue(
    /too many server processes configured/,
    "max_connections and its like add up to more processes than there can be"
  ),
  clue(/pre-existing shared memory block/, "processes of an earlier Postgres still use this data directory"),
  clue(
    /could not fork .*Resource temporarily unavailable/,
    "it may start no more processes (ulimit -u, or pids.max of its cgroup)"
  ),
  clue(/Cannot allocate memory|\bout of memory\b/i, "memory ran out"),
  clue(/Too many open files/, "it may open no more files (max_files_per_process, ulimit -n)"),
  // Listening.
  clue(/could not bind .*Address already in use|Is another postmaster already running on port/, "its port is taken"),
  clue(/could not bind .*Cannot assign requested address/, "an address of listen_addresses is not one of this machine"),
  clue(/could not bind .*Permission denied/, "it may not listen on its port: ports below 1024 are root's"),
  clue(/could not bind .*Address family not supported/, "this machine does not speak the family of its address"),
  clue(/could not translate host name/, "a name in listen_addresses has no address"),
  clue(/Unix-domain socket path .* is too long/, "the path of unix_socket_directories is too long"),
  clue(
    /could not create lock file .*\.s\.PGSQL\.\d+\.lock": (No such file|Permission denied|Not a directory)/,
    "the folder of unix_socket_directories is missing, or it may not write there"
  ),
  clue(
    /lock file ".*\.s\.PGSQL\.\d+\.lock" already exists|using socket file/,
    "another Postgres has its Unix socket: the same port in the same unix_socket_directories"
  ),
  clue(
    /lock file ".*" (already exists|is empty)|running in data directory/,
    "another Postgres runs in this data directory"
  ),
  // Disks.
  clue(/No space left on device/, diskFull),
  clue(/Disk quota exceeded/, quotaUsedUp),
  clue(/Read-only file system/, "its file system is read-only"),
  clue(/Input\/output error/, "the disk has errors"),
  // Configuration.
  clue(/unrecognized configuration parameter/, "its configuration has an error: a setting that it does not know"),
  clue(
    /invalid value for parameter "lc_\w+"|locale is incompatible with operating system|not recognized by setlocale/,
    "a locale is missing on this machine"
  ),
  clue(
    /(server|root) certificate file|private key file|could not load (certificate|root)/,
    "its TLS certificate or key is missing or unusable"
  ),
  clue(/could not load .*pg_hba\.conf/, "pg_hba.conf is missing or has an error"),
  clue(
    /syntax error in file|could not open configuration file/,
    "its configuration has an error: a file that is missing or cannot be read"
  ),
  clue(
    /invalid value for parameter|outside the valid range for parameter|WAL streaming \(/,
    "its configuration has an error"
  ),
  clue(/must specify "?restore_command"?|invalid connection option/, "its configuration has an error"),
  clue(/insufficient parameter settings/, "a setting of this replica is lower than on its primary"),
  clue(
    /could not access file|could not load library|incompatible library|must be loaded via/,
    "a library that it is to load is missing, broken or of another version"
  ),
  // The data directory.
  clue(
    /files are incompatible with server|was initialized by PostgreSQL version|not compatible with this version/,
    "the data directory was made by another version or build"
  ),
  clue(/incorrect checksum in control file/, "the control file of the data directory is damaged"),
  clue(
    /could not find the database system|is not a valid data directory|data directory ".*" does not exist/,
    "the data directory is missing or is none"
  ),
  clue(/has (invalid permissions|wrong ownership)/, "the data directory has the wrong owner or mode"),
  clue(/must not be run as root|execution of the PostgreSQL server is not permitted/, "it refuses to run as root"),
  clue(
    /could not (locate|find) (a valid|required) checkpoint|invalid (primary )?checkpoint record/,
    "the data directory has no checkpoint to recover from"
  ),
  clue(
    /recovery ended before configured recovery target|WAL ends before|requested WAL segment .* removed/,
    "there is less WAL than its recovery needs"
  ),
  clue(/is behind recovery timeline|is not a child of this server's history/, "its WAL is of another timeline"),
  clue(/Permission denied/, "it may not use one of its files"),
  // What is left when nothing before said why.
  clue(/configuration file .* contains errors/, "its configuration has an error"),
  clue(/could not create any (TCP\/IP|Unix-domain) sockets/, "it can listen on none of its addresses")
]

/** The last rows only say that something went wrong: what any record says more precisely goes before them. */
const vague = 2

/** What the newest telling record says; `null`: none says anything. */
export const clueIn = (newestFirst: ReadonlyArray<string>): string | null => {
  for (const rows of [clues.slice(0, -vague), clues.slice(-vague)]) {
    for (const text of newestFirst) {
      const found = rows.find(({ pattern }) => pattern.test(text))
      if (found !== undefined) return found.says
    }
  }
  return null
}
