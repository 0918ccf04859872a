#!/usr/bin/env bash
# Unpacks Dovecot 2.4 of Debian 13, with all its libraries, into .lab/dovecot-2.4 of this checkout: a tree to chroot
# into, for tests of what has changed since Debian 12. Usage: tests/setup/newer.sh
#
# From the mirror that this system uses already, signatures checked by apt with Debian's keyring; the system's own apt
# configuration is neither used nor changed. Nothing is installed and nothing is started; `make clean` removes it.
set -euo pipefail
cd "$(dirname "$0")/../.."

suite=trixie
packages=(dovecot-core dovecot-imapd dovecot-pop3d dovecot-managesieved)
target=$PWD/.lab/dovecot-2.4
[[ ! -e $target/.complete ]] || exit 0

fail() { # without a half of it left
  rm -rf "$target"
  echo "error: $1" >&2
  exit 1
}

rm -rf "$target"
apt=$target/.apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
: >"$apt/status" # as if nothing were installed: so that every library comes along
codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
# shellcheck disable=SC2016
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $codename" | sed -n 1p)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$apt/sources.list"
options=(-qq -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null -o Dir::State::Lists="$apt/lists"
  -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root
  -o Acquire::Languages=none -o Debug::NoLocking=1)
echo "unpacking ${packages[*]} of $suite into $target"
apt-get "${options[@]}" update || fail "this machine's mirror does not give the list of Debian 13's packages ($suite)"
apt-get "${options[@]}" install --yes --no-install-recommends --download-only "${packages[@]}" >/dev/null ||
  fail "this machine's mirror does not give all packages of Dovecot 2.4 in Debian 13 ($suite)"
for package in "$apt"/cache/archives/*.deb; do dpkg -x "$package" "$target"; done
for directory in bin sbin lib lib64; do
  [[ ! -d $target/usr/$directory ]] || ln -sfn "usr/$directory" "$target/$directory"
done
# the lab's own are mounted here
rm -rf "${target:?}/etc"
mkdir -p "$target"/{dev,proc,etc,run,tmp,var/tmp}
rm -rf "$apt" "$target"/usr/share/{doc,man,locale}
touch "$target/.complete"
