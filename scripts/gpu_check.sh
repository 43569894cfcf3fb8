#!/usr/bin/env bash
# Everything that needs a GPU, in one go on a machine that has one, without Rust and without this repository there:
#
#   scripts/gpu_check.sh pack FILE.tar.gz        here: builds, and packs what is needed there (x86-64 Linux)
#   tar xzf FILE.tar.gz && gpu_check/gpu_check.sh run [--quick] [OUT]        there: at most 8 minutes
#
# It runs the op tests on the kernels, records what the GPU makes of the emulator's launches, and times every kernel beside
# PyTorch's where python3 has torch. A part that fails, or that takes too long, is a row of the table; the others go on.
# OUT (gpu_check_out) gets the table, gpu_check.json, each part's output, and recorded/, which belongs into
# emulator/tests/recorded. The status is 1 if a part failed. --quick is for the emulator's driver library: few rows, few
# random cases.
set -euo pipefail

fail() {
  echo "gpu_check.sh: $*" >&2
  exit 2
}

### Here

# The newest glibc that a program asks for.
glibc_of() { objdump -T "$@" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -Vu | tail -1; }

# Builds with these arguments of cargo and copies what the names after `--` are built as.
build_into() {
  local to=$1 args=() name messages=$temp/messages
  shift
  while [[ $1 != -- ]]; do args+=("$1") && shift; done
  shift
  cargo "${args[@]}" --workspace --message-format=json >"$messages"
  for name in "$@"; do
    local built
    built=$(sed -n "s/.*\"target\":{[^}]*\"name\":\"$name\".*\"executable\":\"\([^\"]*\)\".*/\1/p" "$messages" | tail -1)
    [[ -x $built ]] || fail "cargo built no $name"
    strip -o "$to/$name" "$built"
  done
}

pack() {
  [[ $# == 1 ]] || fail "usage: gpu_check.sh pack FILE.tar.gz"
  local file here
  file=$(realpath "$1") here=$(realpath "$(dirname "$0")")
  cd "$here/.."
  temp=$(mktemp -d)
  trap "rm -rf '$temp'" EXIT
  mkdir -p "$temp"/gpu_check/{bin,launches} "$temp/tests"
  build_into "$temp/gpu_check/bin" build --bin vicugna --example record -- vicugna record
  build_into "$temp/gpu_check/bin" test --no-run --test ops --test device -- ops device
  build_into "$temp/tests" test --no-run --test suite --test kernels -- suite kernels
  VICUGNA_VECTORS=$temp/gpu_check/launches/suite.bin "$temp/tests/suite" -q --skip fuzz --skip spans --skip traps >/dev/null
  VICUGNA_VECTORS=$temp/gpu_check/launches/kernels.bin "$temp/tests/kernels" -q --skip mutants >/dev/null
  cp "$here"/gpu_check.{sh,py} "$temp/gpu_check"
  glibc_of "$temp"/gpu_check/bin/* >"$temp/gpu_check/glibc"
  tar -C "$temp" -czf "$file" gpu_check
  echo "wrote $file, $(($(stat -c %s "$file") >> 20)) MiB, for x86-64 Linux with glibc $(cat "$temp/gpu_check/glibc") or later"
}

### There

# Seconds for everything; the table takes the rest of 8 minutes.
TOTAL=460

# part NAME SECONDS COMMAND..: runs a part, and writes its row: name, status, seconds.
part() {
  local name=$1 limit=$2 start=$SECONDS status=0 left=$((TOTAL - SECONDS))
  shift 2
  if ((left < 5)); then
    printf '%s\tno time left\t0\n' "$name" >>"$out/parts.tsv"
    return
  fi
  echo "$name .." >&2
  timeout -k 5 "$((limit < left ? limit : left))" "$@" >"$out/$name.out" 2>"$out/$name.err" </dev/null || status=$?
  case $status in
    0) status=ok ;;
    77) status=skipped ;;
    124 | 137) status="too slow" ;;
    *) status="failed" ;;
  esac
  printf '%s\t%s\t%d\n' "$name" "$status" $((SECONDS - start)) >>"$out/parts.tsv"
}

run() {
  local rows=8192
  if [[ ${1-} == --quick ]]; then
    shift
    rows=64
    export PROPTEST_CASES=${PROPTEST_CASES-2}
  fi
  [[ $# -le 1 ]] || fail "usage: gpu_check.sh run [--quick] [OUT]"
  out=${1-gpu_check_out}
  mkdir -p "$out/recorded"
  out=$(realpath "$out")
  : >"$out/parts.tsv"
  cd "$(dirname "$0")"
  [[ -d bin ]] || fail "run is for the folder that pack packs"
  local here
  here=$(getconf GNU_LIBC_VERSION | sed 's/glibc //')
  [[ $(printf '%s\n' "$here" "$(cat glibc)" | sort -V | head -1) == "$(cat glibc)" ]] ||
    fail "these programs need glibc $(cat glibc), and here is $here"
  export VICUGNA_DEVICE=cuda RUST_BACKTRACE=0
  local op python=${PYTHON-python3}

  part devices 30 bin/vicugna devices --json
  part nvidia-smi 20 sh -c 'command -v nvidia-smi >/dev/null || exit 77; nvidia-smi'
  part record-suite 60 bin/record launches/suite.bin "$out/recorded"
  part record-kernels 60 bin/record launches/kernels.bin "$out/recorded"
  # The refusal of an op that is not timed names those that are.
  for op in $(bin/vicugna kernels time none 2>&1 | sed -n 's/.*there are //p' | tr -d ,); do
    part "time-$op" 60 bin/vicugna kernels time "$op" --rows "$rows" --json
  done
  part pytorch 100 "$python" gpu_check.py torch "$rows"
  part test-device 30 bin/device
  for op in $(bin/ops --list --format terse | cut -d: -f1 | uniq); do
    part "test-$op" 60 bin/ops "$op::"
  done
  if command -v "$python" >/dev/null; then
    "$python" gpu_check.py report "$out" | tee "$out/table.txt"
  else
    cat "$out/parts.tsv"
  fi
  ! cut -f2 "$out/parts.tsv" | grep -qvE '^(ok|skipped)$'
}

case ${1-} in
  pack | run) "$@" ;;
  *) fail "usage: gpu_check.sh pack FILE.tar.gz | run [--quick] [OUT]" ;;
esac
