#!/usr/bin/env bash
# Installs the Debian packages that certagent's tests, demonstration and measurements run: those that are missing, and
# nothing else. Usage: tests/setup/debian.sh GROUP...; the groups are python, demo, lab, build and bench.
#
# No daemon is started, now or at the next boot, and no package is removed; where one would have to be, it stops.
# Needs root only where something is missing; uses sudo then, and says so first.
set -euo pipefail

declare -A groups=(
  [python]="python3 python3-venv"
  # what `make demo` runs: a signing name server, a resolver, a CA, a mail server, namespaces and
  # their network
  [demo]="bind9 unbound pebble postfix iproute2 nftables util-linux mount"
  # what the tests run besides: more servers and their tools, faults, the judge of manual pages; last, libraries of the
  # servers that unpack.sh unpacks
  [lab]="bind9-utils bind9-dnsutils knot nsd pdns-server pdns-backend-sqlite3 sqlite3 postfix-lmdb
    dovecot-core dovecot-imapd dovecot-pop3d dovecot-managesieved haproxy
    procps openssl strace faketime acl groff-base m4 make perl
    libidn12 libgnutls-dane0 libnsl2 libdb5.3 libpcre2-8-0 libwrap0 libldap-2.5-0 libsasl2-2 libevent-2.1-7"
  # what builds the Exim of exim-openssl.sh
  [build]="gcc libc6-dev make dpkg-dev libssl-dev libpcre2-dev libdb5.3-dev"
  [bench]="lego uacme"
)

usable_python() { # the python3 in PATH need not be Debian's
  python3 -c 'import ensurepip, venv' 2>/dev/null
}

installed() {
  [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

missing=()
for group in "$@"; do
  [[ -n ${groups[$group]-} ]] || { echo "error: there is no group $group; the groups: ${!groups[*]}" >&2; exit 2; }
  [[ $group == python ]] && usable_python && continue
  for package in ${groups[$group]}; do installed "$package" || missing+=("$package"); done
done
[[ ${#missing[@]} == 0 ]] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "error: this is not Debian: please install what Debian calls ${missing[*]}" >&2
  exit 1
fi

as_root=()
if [[ $EUID != 0 ]]; then
  echo "These Debian packages are missing: ${missing[*]}"
  if ! command -v sudo >/dev/null; then
    echo "error: installing them needs root, and there is no sudo; as root, run: $0 $*" >&2
    exit 1
  fi
  echo "Installing them needs root, and nothing else does: sudo may ask for your password now."
  as_root=(sudo)
  [[ -t 0 ]] || as_root+=(-n)
fi

# The rest runs as root, as one program, so that sudo asks once.
"${as_root[@]}" bash -s -- "${missing[@]}" <<'ROOT'
set -euo pipefail
missing=("$@")
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
ours=
cleanup() { [[ -z $ours ]] || rm -f "$policy"; }
trap cleanup EXIT
trap 'exit 1' INT TERM HUP

has() { [[ " ${missing[*]} " == *" $1 "* ]]; }
quietly() { # the output of a command only where it fails
  local log
  log=$(mktemp)
  "$@" >"$log" 2>&1 </dev/null && rm -f "$log" && return
  cat "$log" >&2
  rm -f "$log"
  echo "error: $*" >&2
  return 1
}

echo "installing ${missing[*]}"
quietly apt-get -o DPkg::Lock::Timeout=120 update || echo "apt-get update failed; going on with the lists that are there" >&2
if has postfix; then
  quietly apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends --no-remove debconf
  echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
fi
if [[ ! -e $policy ]]; then
  ours=yes
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
quietly apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends --no-remove "${missing[@]}"
if command -v systemctl >/dev/null; then
  declare -A unit=([bind9]=named [unbound]=unbound [knot]=knot [nsd]=nsd [pdns-server]=pdns [dovecot-core]=dovecot [haproxy]=haproxy)
  for package in "${!unit[@]}"; do
    if has "$package"; then systemctl disable --quiet "${unit[$package]}" 2>/dev/null || true; fi
  done
fi
ROOT
