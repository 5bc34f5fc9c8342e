#!/usr/bin/env bash
# Does what the README tells a newcomer to do, in a fresh clone of what is committed: its first command, which is
# `make dev`, until the first verified delivery; its second one, `make test`, is what runs this, so that it is only
# looked for.
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
clone=$(mktemp -d)
trap 'rm -rf "$clone"' EXIT

fail() {
  echo "readme: $*" >&2
  exit 1
}

git clone --quiet --no-hardlinks "$repository" "$clone/postrider"
cd "$clone/postrider"
[ -f README.md ] || fail "there is no README.md"
# With a target folder that is shared, what is built there is as good: a clone's files are not newer for having been
# cloned. Cargo goes by their times.
find . -type f -exec touch --date=@1 {} +

# The lines of the code blocks of the README that call make, without their comments.
mapfile -t commands < <(
  awk '/^```/ { inside = !inside; next } inside' README.md | sed -E 's/[[:space:]]*#.*$//; s/^[[:space:]]*\$ //' | grep -E '^[[:space:]]*make( |$)'
)
[ "${#commands[@]}" -ge 2 ] || fail "the README's code blocks hold ${#commands[@]} make commands, not two"
[ "${commands[0]}" = "make dev" ] || fail "the README's first command is '${commands[0]}', not 'make dev'"
[ "${commands[1]}" = "make test" ] || fail "the README's second command is '${commands[1]}', not 'make test'"
make --dry-run test >/dev/null || fail "'make test' does not exist"

# Any free ports, and an end: the newcomer's terminal would show the same until then.
output=$(timeout --kill-after=10 1500 ${commands[0]} ARGS="--once --port 0 --agent-port 0 --receiver-port 0") || fail "'${commands[0]}' failed: $output"
grep -q "signature verified by standardwebhooks" <<<"$output" || fail "'${commands[0]}' shows no verified delivery: $output"
echo "readme: both commands are as promised"
