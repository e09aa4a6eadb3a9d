#!/bin/sh
# Runs the clients of the fake compute, each where its language is installed, and says which were not run.
set -eu
here=$(CDPATH='' cd -P -- "$(dirname -- "$0")" && pwd -P)
export COMPUTE_CTL="${COMPUTE_CTL:-$here/../../bin/compute_ctl}"
export SCRIPT="$here/compute.json"

if command -v python3 >/dev/null; then
  python3 "$here/client.py"
else
  echo "client.py was not run: there is no python3 on the PATH"
fi
if command -v go >/dev/null; then
  go run "$here/client.go"
else
  echo "client.go was not run: there is no go on the PATH"
fi
