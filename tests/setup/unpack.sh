#!/usr/bin/env bash
# Unpacks servers that cannot or need not be installed (mail servers whose packages conflict with Postfix, a web server
# that would be started at each boot, a newer Pebble) into .lab/NAME of this checkout, for the laboratory of the tests.
# Usage: tests/setup/unpack.sh NAME...; the names are exim, nginx, opensmtpd, opensmtpd7, pebble2 and sendmail.
#
# Nothing is installed and nothing is started; `make clean` removes it. The libraries they need are in debian.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."

declare -A packages=(
  [exim]="exim4-base exim4-config exim4-daemon-light"
  [nginx]="nginx"
  [opensmtpd]="opensmtpd"
  [opensmtpd7]="opensmtpd"
  [pebble2]="pebble"
  [sendmail]="sendmail-base sendmail-bin sendmail-cf liblockfile1"
)

# Debian 12's own OpenSMTPD, 6.8, fails every TLS handshake with OpenSSL 3; that of its backports does not. Its Pebble,
# 2.4, has no dns-persist-01; that of Debian's unstable has. The index of that suite is fetched from the mirror that apt
# uses already, into the directory where this is called.
use_suite() {
  local mirror
  # shellcheck disable=SC2016
  mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' | sed -n 's/^bookworm //p' | head -n 1)
  mkdir -p lists/partial cache/archives/partial
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >sources.list
  apt+=(-o Dir::Etc::sourcelist="$PWD/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$PWD/lists"
    -o Dir::Cache="$PWD/cache")
  "${apt[@]}" update
}

fetch() { # the packages of a server, into the directory it is to be unpacked in
  cd ".lab/$1/.deb" || return
  # as root, apt wants to download as a user of its own, who may not be able to enter this directory
  local apt=(apt-get -qq -o APT::Sandbox::User=root -o DPkg::Lock::Timeout=120)
  if [[ $1 == opensmtpd7 ]]; then use_suite bookworm-backports || return; fi
  if [[ $1 == pebble2 ]]; then use_suite sid || return; fi
  # shellcheck disable=SC2086
  "${apt[@]}" download ${packages[$1]}
}

for server in "$@"; do
  target=.lab/$server
  [[ ! -e $target/.complete ]] || continue
  rm -rf "$target"
  mkdir -p "$target/.deb"
  echo "unpacking ${packages[$server]} into $target"
  if ! (fetch "$server"); then
    rm -rf "$target"
    echo "error: this machine's mirrors do not give the Debian packages ${packages[$server]} for $server" >&2
    exit 1
  fi
  for package in "$target"/.deb/*.deb; do dpkg -x "$package" "$target"; done
  rm -rf "$target/.deb"
  touch "$target/.complete"
done
