#!/usr/bin/env bash
# Downloads the source of a Debian package and unpacks it in the current directory. Usage: tests/setup/source.sh PACKAGE
# [APT-OPTION...]
#
# It takes the newest version that can be downloaded. A mirror may list a version whose files it does not have (404):
# then this takes the version before it, and says so.
set -euo pipefail
package=$1
shift

errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
# sort has Debian's order of versions
mapfile -t versions < <(apt-cache "$@" showsrc --only-source "$package" | sed -n 's/^Version: //p' |
  sort --version-sort --reverse --unique)
for version in "${versions[@]}"; do
  if apt-get "$@" source --download-only "$package=$version" >/dev/null 2>"$errors"; then
    [[ $version == "${versions[0]}" ]] || echo "taking the version before it: $package $version" >&2
    # this finds the files downloaded, checks them and unpacks them
    apt-get "$@" source "$package=$version" >/dev/null
    exit 0
  fi
  cat "$errors" >&2
  echo "the source of $package $version is listed but cannot be downloaded" >&2
done
echo "error: no source of $package can be downloaded from this machine's mirrors; listed: ${versions[*]:-none}" >&2
exit 1
