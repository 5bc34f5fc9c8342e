#!/usr/bin/env bash
# Runs the fuzz targets: each first on its kept seeds, then on inputs of its own for a while.
#
#   fuzz/run.sh [SECONDS] [TARGET…]     10 seconds of each of all targets
#   fuzz/run.sh same [TARGET…]          the same 20,000 inputs every time, for at most 20 seconds a target
#
# A finding ends it, and leaves its input in fuzz/artifacts/TARGET: put that into fuzz/seeds/TARGET with the fix.
set -euo pipefail
cd "$(dirname "$0")/.."

fuzz=.tools/bin/cargo-fuzz
# Without the address sanitizer: Postrider has no unsafe code, and the sanitizer makes a build and every run slower.
build=(--codegen-units 16 --sanitizer none)
# Coverage is there in every compiler, but counts as unstable.
export RUSTC_BOOTSTRAP=1
# Where the control plane of the target api has its store.
export TMPDIR=$PWD/fuzz/target/tmp
rm -rf "$TMPDIR"
mkdir -p "$TMPDIR"

# How long a target runs. With the same inputs every time, a change is never stopped by a finding that
# is not its own; a machine that pauses for a while is not a finding either.
amount=10
if [[ "${1:-}" =~ ^[0-9]+$ || "${1:-}" = same ]]; then
  amount=$1
  shift
fi
case $amount in
  same) limits=(-seed=1 -runs=20000 -max_total_time=20 -timeout=60) ;;
  *) limits=(-max_total_time="$amount" -timeout=10) ;;
esac
targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <("$fuzz" list)

# What is fuzzed is built with the very dependencies that are shipped.
cp Cargo.lock fuzz/Cargo.lock
# Its progress is shown: it takes minutes, and whoever waits must see that it goes on.
"$fuzz" build "${build[@]}"

# Runs one target with libFuzzer's options; says nothing unless it fails. The finding and its input are
# the last lines, because logs are often cut at their beginning.
run() {
  local target=$1 log=fuzz/$1.log
  shift
  if ! RUST_BACKTRACE=0 "$fuzz" run "${build[@]}" "$target" "$@" >"$log" 2>&1; then
    grep -vE '^#[0-9]+|NEW_FUNC' "$log" | tail -n 60 >&2
    echo "fuzz: $target has found something:" >&2
    grep -aE -A 3 'panicked at|^==[0-9]+== ?ERROR|^SUMMARY|^Base64|Test unit written' "$log" | cut -c 1-2000 >&2
    echo "fuzz: run it again with: fuzz/run.sh $amount $target" >&2
    exit 1
  fi
}

for target in "${targets[@]}"; do
  seeds=fuzz/seeds/$target corpus=fuzz/corpus/$target
  # What earlier runs have found would be other inputs.
  [ "$amount" != same ] || corpus=$TMPDIR/corpus/$target
  mkdir -p "$corpus"
  run "$target" "$seeds" -- -runs=0 -timeout=60
  run "$target" "$corpus" "$seeds" -- "${limits[@]}" -rss_limit_mb=2048 -max_len=8192
  echo "fuzz: $target: $(find "$seeds" -type f | wc -l) seeds, $(grep -oE '^Done [0-9]+ runs' "fuzz/$target.log")"
done
echo "fuzz: ${#targets[@]} targets, nothing found"
