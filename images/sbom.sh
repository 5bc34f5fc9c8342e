#!/usr/bin/env bash
# Writes a CycloneDX SBOM for each program, from Cargo.lock: PROGRAM.cdx.json in the given folder.
#
#   images/sbom.sh FOLDER
#
# `make sbom` installs cargo-cyclonedx and runs this. It reads the lock file for this machine's
# target and builds nothing. The same commit gives the same bytes.
set -euo pipefail
umask 022

readonly PROGRAMS=(postrider postrider-control-plane postrider-agent)

[ $# -eq 1 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
repository=$(pwd)

fail() {
  echo "sbom: $*" >&2
  exit 1
}

# cargo-cyclonedx writes beside each Cargo.toml, with this suffix. Nothing of it stays there.
remove_written() {
  rm -f "$repository"/*/*_bin.cdx.json
}

# Dated by the commit, so that the files do not depend on when they are written.
write_sboms() {
  SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
  export SOURCE_DATE_EPOCH
  # cargo-cyclonedx has no such option, and would describe a lock file that it has changed.
  cargo metadata --locked --format-version 1 >/dev/null || fail "Cargo.lock is not current"
  PATH="$repository/.tools/bin:$PATH" \
    cargo cyclonedx --describe binaries --format json --spec-version 1.5 --quiet \
    || fail "cargo cyclonedx failed; install it with \`make sbom\`, and see its message above"
}

# Moves one to its place. It must not name folders of this machine.
keep() {
  local written=("$repository"/*/"$1_bin.cdx.json")
  [ -f "${written[0]}" ] || fail "cargo cyclonedx wrote nothing for $1: is it still a program of the workspace?"
  sed "s#path+file://$repository/#path+file:///postrider/#g" "${written[0]}" >"$folder/$1.cdx.json"
}

trap remove_written EXIT
write_sboms
for program in "${PROGRAMS[@]}"; do keep "$program"; done
