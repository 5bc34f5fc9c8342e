#!/usr/bin/env bash
# Lays out the root filesystem of an image: its programs, and what they need of a Debian system, and nothing else.
#
#   images/rootfs.sh control-plane|agent PROGRAMS ROOT
#
# PROGRAMS is a folder with the built programs, ROOT a folder to be made. The Dockerfile runs this, and so do the tests, which
# need no container engine: what is tested is what is shipped. It needs a Debian with ca-certificates.
set -euo pipefail
umask 022

# The authorities of the package, and not those that this machine's owner trusts besides.
readonly AUTHORITIES=/usr/share/ca-certificates/mozilla
readonly USER_ID=65532

[ $# -eq 3 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
image=$1 programs=$2 root=$3
repository=$(cd "$(dirname "$0")/.." && pwd)

case $image in
  # `postrider` is the control plane too, when it is called by that name.
  control-plane) main=postrider; links=(postrider-control-plane) ;;
  agent) main=postrider-agent; links=() ;;
  *) echo "rootfs: there is no image '$image'; there are control-plane and agent" >&2; exit 2 ;;
esac

fail() {
  echo "rootfs: $*" >&2
  exit 1
}

# Names the libraries of a program and its loader, as it will look for them.
libraries() {
  ldd "$1" | grep -oE '/[^ ]+' || fail "ldd says nothing of $1: is it a program of this machine's kind?"
}

# Folders, and the names under which all systems with a merged /usr have them.
lay_folders() {
  [ ! -e "$root" ] || fail "$root is there already"
  install -d -m 0755 "$root"/{etc/ssl/certs,usr/{bin,lib,lib64,sbin,local/bin},var/lib/dpkg/status.d,home/nonroot,proc,sys,dev,run}
  install -d -m 1777 "$root/tmp"
  ln -s usr/bin usr/lib usr/lib64 usr/sbin "$root/"
}

# Users, names and authorities.
lay_settings() {
  printf '%s\n' 'root:x:0:0:root:/root:/sbin/nologin' 'nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin' \
    "nonroot:x:$USER_ID:$USER_ID:nonroot:/home/nonroot:/sbin/nologin" >"$root/etc/passwd"
  printf '%s\n' 'root:x:0:' 'nogroup:x:65534:' "nonroot:x:$USER_ID:" >"$root/etc/group"
  echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
  cat "$AUTHORITIES"/*.crt >"$root/etc/ssl/certs/ca-certificates.crt" || fail "install ca-certificates"
  install -m 0644 /etc/os-release "$root/etc/os-release"
}

lay_program() {
  install -m 0755 "$programs/$main" "$root/usr/local/bin/$main" || fail "build $main first"
  for link in "${links[@]}"; do ln -s "$main" "$root/usr/local/bin/$link"; done
  install -D -m 0644 "$repository/LICENSE" "$root/usr/share/doc/postrider/LICENSE"
}

# The libraries, with their licences, and with a word for scanners about which packages they are of.
lay_libraries() {
  local needed packages library package licence
  needed=$(libraries "$programs/$main")
  packages=$(packages_of $needed)
  for library in $needed; do
    install -D -m 0755 "$(readlink -f "$library")" "$root$library"
  done
  for package in $packages ca-certificates; do
    dpkg-query --status "$package" >"$root/var/lib/dpkg/status.d/$package"
    licence=/usr/share/doc/$package/copyright
    install -D -m 0644 "$licence" "$root$licence"
  done
}

# Debian's packages that files are of. It knows them by their path with or without /usr.
packages_of() {
  local file path
  for file in "$@"; do
    path=$(readlink -f "$file")
    { dpkg-query --search "$path" || dpkg-query --search "${path#/usr}"; } 2>/dev/null | cut -d: -f1 | grep . || fail "no package has $path"
  done | sort -u
}

lay_folders
lay_settings
lay_program
lay_libraries
