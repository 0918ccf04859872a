#!/usr/bin/env bash
# Unpacks a mail server of a later Debian, with all its libraries, into .lab/NAME of this checkout: a tree to chroot
# into, for tests of what has changed since. Usage: tests/setup/newer.sh [NAME...]; without: all.
#
# From the mirror that this system uses already, signatures checked by apt with Debian's keyring; the system's own apt
# configuration is neither used nor changed. Nothing is installed and nothing is started; `make clean` removes it.
set -euo pipefail
cd "$(dirname "$0")/../.."

declare -A suites=([dovecot-2.4]=trixie)
declare -A packages=([dovecot-2.4]="dovecot-core dovecot-imapd dovecot-pop3d dovecot-managesieved")
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

for name in "${@:-dovecot-2.4}"; do
  target=$PWD/.lab/$name
  [[ ! -e $target/.complete ]] || continue
  rm -rf "$target"
  apt=$target/.apt
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
  : >"$apt/status" # as if nothing were installed: so that every library comes along
  codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $codename" | sed -n 1p)
  echo "deb [signed-by=$keyring] $mirror ${suites[$name]} main" >"$apt/sources.list"
  options=(-qq -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null -o Dir::State::Lists="$apt/lists"
    -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root
    -o Acquire::Languages=none -o Debug::NoLocking=1)
  echo "unpacking ${packages[$name]} of ${suites[$name]} into $target"
  apt-get "${options[@]}" update
  apt-get "${options[@]}" install --yes --no-install-recommends --download-only ${packages[$name]} >/dev/null
  for package in "$apt"/cache/archives/*.deb; do dpkg -x "$package" "$target"; done
  for directory in bin sbin lib lib64; do
    [[ ! -d $target/usr/$directory ]] || ln -sfn "usr/$directory" "$target/$directory"
  done
  # where the lab's own are mounted
  rm -rf "$target/etc"
  mkdir -p "$target"/{dev,proc,etc,run,tmp,var/tmp}
  rm -rf "$apt" "$target"/usr/share/{doc,man,locale}
  touch "$target/.complete"
done
