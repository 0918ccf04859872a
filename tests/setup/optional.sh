#!/usr/bin/env bash
# Sets up what most tests can do without. Usage: tests/setup/optional.sh NAME COMMAND [ARGUMENT...]
#
# If COMMAND fails, its last line on standard error is kept as the reason, in .lab/not-set-up/NAME. The end of every test
# run shows it (ending.py). The exit code is 0 all the same, and `make setup` tries again each time.
set -euo pipefail
name=$1
shift
cd "$(dirname "$0")/../.."

note=.lab/not-set-up/$name
mkdir -p "${note%/*}"
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
if { "$@" 2>&1 >&3 | tee "$errors" >&2; } 3>&1; then
  rm -f "$note"
  exit 0
fi
reason=$(grep '[^ ]' "$errors" | tail -n 1 || true)
reason=${reason#error: }
echo "${reason:-its set-up failed without a word: $*}" >"$note"
echo "$name is not set up here: tests that need it are skipped" >&2
