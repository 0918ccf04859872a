#!/usr/bin/env bash
# Writes requirements.lock (what certagent needs) and requirements-dev.lock (that, what its extras bring, and what its
# tests need): the newest releases, for every Python from 3.11 on, each with the hashes of all its files. Called by
# `make lock`.
#
# It uses the uv that is in PATH, or gets one into a temporary directory. Where packages come from is a matter of this
# machine (UV_DEFAULT_INDEX and its like) and never gets into the files.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

uv=$(command -v uv || true)
if [[ -z $uv ]]; then
  "$python" -m venv "$temporary/uv"
  "$temporary/uv/bin/pip" install --quiet uv
  uv=$temporary/uv/bin/uv
fi

compile() { # FILE [ARGUMENT...]
  local file=$1
  shift
  "$uv" pip compile pyproject.toml "$@" --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
    --no-header --no-annotate --no-emit-index-url --no-emit-find-links --no-cache --no-python-downloads \
    --output-file "$temporary/$file" >/dev/null
  # a line is a package with its marker, or a hash; anything else (an address, a path) has no place here
  if grep -nvE '^([a-z0-9.-]+==[0-9][^/:]*\\| +--hash=sha256:[0-9a-f]{64}( \\)?)$' "$temporary/$file"; then
    echo "$file: these lines do not belong into a lock" >&2
    exit 1
  fi
}

compile requirements.lock
compile requirements-dev.lock --group dev --all-extras --constraint "$temporary/requirements.lock"
for file in requirements.lock requirements-dev.lock; do
  cmp --silent "$temporary/$file" "$file" && echo "$file: unchanged" && continue
  diff <(grep -o '^[a-z].*==[^ ]*' "$file" 2>/dev/null) <(grep -o '^[a-z].*==[^ ]*' "$temporary/$file") || true
  install -m 644 "$temporary/$file" "$file"
  echo "$file: written, $(grep -c == "$file") packages"
done
