#!/usr/bin/env bash
# Unpacks mail servers that cannot be installed beside Postfix (their packages conflict, their files do not) into
# .lab/NAME of this checkout, for the laboratory of the tests. Usage: tests/setup/unpack.sh [NAME...]; without: all.
#
# Nothing is installed and nothing is started; `make clean` removes it. The libraries they need are in debian.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."

declare -A packages=(
  [exim]="exim4-base exim4-config exim4-daemon-light"
  [opensmtpd]="opensmtpd"
  [sendmail]="sendmail-base sendmail-bin sendmail-cf liblockfile1"
)

for name in "${@:-exim opensmtpd sendmail}"; do
  for server in $name; do
    target=.lab/$server
    [[ ! -e $target/.complete ]] || continue
    rm -rf "$target"
    mkdir -p "$target/.deb"
    echo "unpacking ${packages[$server]} into $target"
    # as root, apt wants to download as a user of its own, who may not be able to enter this directory
    (cd "$target/.deb" && apt-get -qq -o APT::Sandbox::User=root -o DPkg::Lock::Timeout=120 download ${packages[$server]})
    for package in "$target"/.deb/*.deb; do dpkg -x "$package" "$target"; done
    rm -rf "$target/.deb"
    touch "$target/.complete"
  done
done
