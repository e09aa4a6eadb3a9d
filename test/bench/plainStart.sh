#!/usr/bin/env bash
# The start as a plain shell script does it: the same base, the same settings, one query. What ours is compared with.
# Waits for a Postgres that a kill left behind (LEFT), takes the old PGDATA away by a rename, and cleans nothing up.
set -euo pipefail

if [ -n "${LEFT:-}" ]; then
  kill -9 "$LEFT" 2>/dev/null || true
  # One that nobody has reaped yet has no program any more.
  while [ -e "/proc/$LEFT/exe" ]; do sleep 0.002; done
fi
[ ! -e "$PGDATA" ] || mv "$PGDATA" "$TRASH"
mkdir -m 700 "$PGDATA"
if [ ! -e "$WAL" ]; then
  mkdir -p "$WAL/archive_status"
  cp "$TEMPLATE"/0* "$WAL/"
fi
cp -r "$TEMPLATE"/pgdata/. "$PGDATA"/
rmdir "$PGDATA/pg_wal"
ln -s "$WAL" "$PGDATA/pg_wal"
cp "$CONF"/* "$PGDATA/"

"$POSTGRES" -D "$PGDATA" </dev/null >>"$LOG" 2>&1 &
ready() { mapfile -t line <"$PGDATA/postmaster.pid" && [[ ${line[7]-} == ready* ]]; } 2>/dev/null
until ready; do sleep 0.002; done
"$@"
echo "answered"
