#!/usr/bin/env bash
# Builds an Exim with OpenSSL from Debian's source, into .lab/exim-openssl of this checkout: Debian has packages of the
# GnuTLS build only. Usage: tests/setup/exim-openssl.sh
#
# It takes the newest version that can be downloaded (source.sh), with Debian's patches, from the mirrors that this system
# uses already. Signatures are checked by apt with Debian's keyring; the system's own apt configuration is neither used
# nor changed. Compiler and headers are installed (debian.sh), nothing else is, and nothing is started; `make clean` removes
# it.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$PWD/.lab/exim-openssl
[[ ! -e $target/.complete ]] || exit 0
tests/setup/debian.sh build
rm -rf "$target"
apt=$target/.apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$target/usr/sbin"

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
line="deb-src [signed-by=$keyring] \$(REPO_URI) \$(CODENAME) \$(COMPONENT)"
apt-get indextargets --format "$line" 'Created-By: Packages' 'Origin: Debian' 'Component: main' | sort -u >"$apt/sources.list"
options=(-qq -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null -o Dir::State::Lists="$apt/lists"
  -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none -o Debug::NoLocking=1)
echo "building Exim with OpenSSL into $target"
apt-get "${options[@]}" update || echo "some lists of sources cannot be downloaded; going on with the others" >&2
source=$PWD/tests/setup/source.sh
(cd "$apt" && "$source" exim4 "${options[@]}")

cd "$apt"/exim4-*/
# what the lab's configuration and its tests use; users, and the files that -C may name, as Debian's packages have them
cat >Local/Makefile <<'END'
USE_OPENSSL=yes
TLS_LIBS=-lssl -lcrypto
PCRE2_CONFIG=yes
HAVE_IPV6=yes
BIN_DIRECTORY=/usr/sbin
CONFIGURE_FILE=/etc/exim4/exim4.conf
TRUSTED_CONFIG_LIST=/etc/exim4/trusted_configs
SPOOL_DIRECTORY=/var/spool/exim4
EXIM_USER=ref:Debian-exim
EXIM_GROUP=ref:Debian-exim
FIXED_NEVER_USERS=root
ROUTER_ACCEPT=yes
TRANSPORT_APPENDFILE=yes
TRANSPORT_SMTP=yes
SUPPORT_MAILDIR=yes
LOOKUP_DSEARCH=yes
LOOKUP_LSEARCH=yes
# a third of the time goes into optimizing
CFLAGS=-O0
END
make exim >build.log 2>&1 </dev/null || {
  tail -n 20 build.log >&2
  echo "error: the build of Exim with OpenSSL fails: its log is $PWD/build.log" >&2
  exit 1
}
install -m 755 build-*/exim "$target/usr/sbin/exim4"
cd "$target"
rm -rf "$apt"
touch .complete
