#!/usr/bin/env bash
# Everything that needs a GPU, in one go on a machine that has one, without Rust and without this repository there:
#
#   scripts/gpu_check.sh pack FILE.tar.gz        here: builds, and packs what is needed there (x86-64 Linux)
#   tar xzf FILE.tar.gz && gpu_check/gpu_check.sh run [--quick] [OUT]        there: at most ten minutes
#
# What teaches most comes first: a fine-tuning on CPU and GPU, the op tests, a training step of Llama-3-8B, every op's time
# beside PyTorch's (where python3 has torch), profiles of four kernels (where ncu works), the emulator's launches recorded
# and sanitized (where compute-sanitizer works), f32 and CUDA graphs.
# A part that fails runs again with CUDA_LAUNCH_BLOCKING=1; a part that fails or takes too long is a row of the table, and
# the others go on. OUT (gpu_check_out) gets table.txt, gpu_check.json, and gpu_check.tar.gz with each part's output and
# recorded/, which belongs into emulator/tests/recorded; all three also where the run is cut short by a signal. The status
# is 1 if a part failed. --quick is for the emulator's driver library: few rows, few random cases, a tiny model.
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

# The most MiB of a pack: what lends a machine may take no more than 64, and the tree beside it.
MOST=45

pack() {
  [[ $# == 1 ]] || fail "usage: gpu_check.sh pack FILE.tar.gz"
  local file here size
  file=$(realpath "$1") && here=$(realpath "$(dirname "$0")")
  cd "$here/.."
  temp=$(mktemp -d)
  trap "rm -rf '$temp'" EXIT
  mkdir -p "$temp"/gpu_check/{bin,launches} "$temp/tests"
  build_into "$temp/gpu_check/bin" build --bin vicugna --example record -- vicugna record
  build_into "$temp/gpu_check/bin" test --no-run --test ops --test device -- ops device
  build_into "$temp/tests" test --no-run --test suite --test kernels -- suite kernels
  local to=$temp/gpu_check
  VICUGNA_VECTORS=$to/launches/suite.bin "$temp/tests/suite" -q --skip fuzz --skip spans --skip traps >/dev/null
  VICUGNA_VECTORS=$to/launches/kernels.bin "$temp/tests/kernels" -q --skip mutants >/dev/null
  cp "$here"/gpu_check.{sh,py} "$to"
  cp -r assets/tiny "$to/model" && cp assets/dolly_sample/train.jsonl "$to/records.jsonl"
  glibc_of "$to"/bin/* >"$to/glibc"
  tar -C "$temp" -czf "$file" gpu_check
  size=$((($(stat -c %s "$file") + (1 << 20) - 1) >> 20))
  echo "wrote $file, $size MiB, for x86-64 Linux with glibc $(cat "$to/glibc") or later"
  ((size <= MOST)) || fail "that is more than $MOST MiB"
}

### There

# Seconds that parts have in all; table and archive come after that.
TOTAL=480

# group SECONDS: the parts that follow have so long together.
group() { group_end=$((SECONDS + $1 * slack)); }

# part NAME SECONDS COMMAND..: runs a part. One that fails runs again, each launch waited for, so that its error names the
# kernel that failed and not one launched later.
part() {
  attempt "$@"
  [[ $status == failed ]] || return 0
  local name=$1
  shift
  CUDA_LAUNCH_BLOCKING=1 attempt "$name.blocking" "$@"
}

# Runs a part once, and writes its row: name, status, seconds.
attempt() {
  local limit=$(($2 * slack)) code=0 left=$((group_end - SECONDS))
  current=$1 since=$SECONDS
  shift 2
  ((end - SECONDS >= left)) || left=$((end - SECONDS))
  if ((left < 3)); then
    status="no time left" && row
    return
  fi
  echo "$current .." >&2
  timeout -k 3 "$((limit < left ? limit : left))" "$@" >"$work/$current.out" 2>"$work/$current.err" </dev/null &
  child=$!
  wait "$child" || code=$?
  child=
  case $code in
    0) status=ok ;;
    77) status=skipped ;;
    124 | 137) status="too slow" ;;
    *) status=failed ;;
  esac
  row
}

row() {
  printf '%s\t%s\t%d\n' "$current" "$status" $((SECONDS - since)) >>"$work/parts.tsv"
  current=
}

# Ends the part that runs, if one does: its row says so.
cut_short() {
  [[ -n $current ]] || return 0
  if [[ -n $child ]]; then
    kill "$child" 2>/dev/null || true
    for _ in 1 2 3 4 5; do kill -0 "$child" 2>/dev/null && sleep 0.2; done
    kill -KILL -- "-$child" 2>/dev/null || true
  fi
  status="cut short" && row
}

# Whatever ended the run: the table, and everything else in one archive.
finish() {
  trap - EXIT
  trap '' TERM INT
  cut_short
  if command -v "$python" >/dev/null && "$python" gpu_check.py report "$work" "$out/gpu_check.json" >"$out/table.txt"; then :; else
    cp "$work/parts.tsv" "$out/table.txt"
  fi
  cat "$out/table.txt"
  # Of an output without end its end is kept.
  find "$work" -type f -size +15M ! -name '*.bin' -exec sh -c 'tail -c 1M "$1" >"$1.end" && rm "$1"' - {} \;
  tar -C "$work" -czf "$out/gpu_check.tar.gz" . && rm -rf "$work"
}

# The program of that name, on the path or where NVIDIA's installers put it.
tool() {
  command -v "$1" && return
  local found
  found=$(ls -d /usr/local/cuda*/bin/"$1" /opt/nvidia/nsight-compute/*/"$1" 2>/dev/null | sort -V | tail -1) || true
  [[ -n $found ]] && echo "$found" && return
  echo "there is no $1 here" >&2
  exit 77
}

# Skips the part, since the tool whose output is in that file did not work.
does_not_work() {
  echo "$1 does not work here: $(grep -m1 -iE 'error|not supported|permission' "$2" || tail -1 "$2")" >&2
  exit 77
}

# profile KERNEL OP ROWS: what ncu says of the first launch of the kernel in the op.
profile() {
  local ncu log
  ncu=$(tool ncu) || exit
  log=$(mktemp)
  "$ncu" --clock-control none --kernel-name "$1" --launch-count 1 --kill yes --page raw --csv \
    --section SpeedOfLight --section ComputeWorkloadAnalysis --section MemoryWorkloadAnalysis --section WarpStateStats \
    --section LaunchStats --section Occupancy \
    --metrics dram__bytes.sum,lts__t_bytes.sum,sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active \
    bin/vicugna kernels time "$2" --rows "$3" --dtype bf16 2>&1 | tee "$log" || true
  grep -qE "^\"[0-9]+\",.*\"$1\"" "$log" || does_not_work ncu "$log"
}

# sanitize TOOL: one of compute-sanitizer's tools on a launch of each kernel.
sanitize() {
  local sanitizer code=0 temp
  sanitizer=$(tool compute-sanitizer) || exit
  temp=$(mktemp -d)
  bin/record --middle launches/kernels.bin "$temp/middle.bin"
  "$sanitizer" --tool "$1" --target-processes all --error-exitcode 99 bin/record "$temp/middle.bin" "$temp" 2>&1 |
    tee "$temp/log" || code=$?
  grep -qE "(ERROR|RACECHECK) SUMMARY" "$temp/log" || does_not_work compute-sanitizer "$temp/log"
  [[ $code != 99 ]]
}

# graphs TOKENS: a text, and the same with CUDA graphs: the same tokens.
graphs() {
  local text=(bin/vicugna generate --model model --device cuda --max-new-tokens "$1" --prompt "Lake Titicaca lies" --json) a b
  a=$("${text[@]}") && echo "$a"
  b=$("${text[@]}" --cuda-graphs) && echo "$b"
  [[ ${a%%tokens_per_second*} == "${b%%tokens_per_second*}" ]]
}

run() {
  local rows=8192 shape=llama-3-8b steps=5 text=64
  slack=1
  if [[ ${1-} == --quick ]]; then
    shift
    rows=64 shape=tiny steps=1 text=4 slack=6
    export PROPTEST_CASES=${PROPTEST_CASES-2}
  fi
  [[ $# -le 1 ]] || fail "usage: gpu_check.sh run [--quick] [OUT]"
  out=${1-gpu_check_out}
  mkdir -p "$out"
  out=$(realpath "$out") && work=$out/parts
  rm -rf "$work" && mkdir -p "$work/recorded"
  : >"$work/parts.tsv"
  cd "$(dirname "$0")"
  [[ -d bin ]] || fail "run is for the folder that pack packs"
  local here
  here=$(getconf GNU_LIBC_VERSION | sed 's/glibc //')
  [[ $(printf '%s\n' "$here" "$(cat glibc)" | sort -V | head -1) == "$(cat glibc)" ]] ||
    fail "these programs need glibc $(cat glibc), and here is $here"
  python=${PYTHON-python3} current='' child='' end=$((SECONDS + TOTAL * slack))
  trap finish EXIT
  trap 'exit 143' TERM
  trap 'exit 130' INT
  export VICUGNA_DEVICE=cuda RUST_BACKTRACE=0 PROPTEST_CASES=${PROPTEST_CASES-32}
  # What the driver compiles is kept for the next part.
  [[ -w ${HOME-/} ]] || export CUDA_CACHE_PATH=$work/cache
  parts
  ! cut -f2 "$work/parts.tsv" | grep -qvE '^(ok|skipped)$'
}

# All parts, what teaches most first; the groups' seconds add up to TOTAL.
parts() {
  local op dtype device self=./gpu_check.sh
  group 45
  part devices 15 bin/vicugna devices --json
  part nvidia-smi 10 sh -c 'command -v nvidia-smi >/dev/null || exit 77; nvidia-smi'
  for device in cpu cuda; do
    part finetune-$device 20 bin/vicugna finetune --model model --train records.jsonl --out "$work/finetune-$device" \
      --device $device --dtype f32 --max-steps "$steps" --batch-size 1 --max-input-length 256 \
      --validation-split-ratio 0 --json
  done
  part losses 5 "$python" gpu_check.py losses "$work"

  group 65
  for op in matmul attention lora cross_entropy $(bin/ops --list --format terse | cut -d: -f1 | uniq |
    grep -vxE 'matmul|attention|lora|cross_entropy'); do
    part "test-$op" 25 bin/ops "$op::"
  done
  part test-device 15 bin/device

  group 60
  part step 60 bin/vicugna kernels time step --shape "$shape" --tokens "$rows" --lines "$work/step.lines"

  group 50
  times bf16 15
  group 40
  part torch-bf16 40 "$python" gpu_check.py torch "$rows" bf16 25

  group 35
  part ncu-matmul_nt 15 $self profile matmul_nt_bf16_128 matmul "$rows"
  part ncu-attention_fwd 15 $self profile attention_fwd_d128_bf16 attention "$rows"
  part ncu-attention_bwd 15 $self profile attention_bwd_d128_bf16 attention "$rows"
  part ncu-matmul_rows 15 $self profile matmul_rows_bf16 matmul "$rows"

  group 50
  part record-kernels 50 bin/record launches/kernels.bin "$work/recorded"
  group 45
  part memcheck 25 $self sanitize memcheck
  part racecheck 30 $self sanitize racecheck
  group 50
  part record-suite 50 bin/record launches/suite.bin "$work/recorded"

  group 40
  times f32 15
  part graphs 15 $self graphs "$text"
  part torch-f32 20 "$python" gpu_check.py torch "$rows" f32 8
}

# times DTYPE SECONDS: each op's. The refusal of an op that is not timed names those that are.
times() {
  for op in matmul attention cross_entropy $(bin/vicugna kernels time none 2>&1 | sed -n 's/.*there are //p' | tr -d , |
    tr ' ' '\n' | grep -vxE 'matmul|attention|cross_entropy'); do
    # A head in f32 is nobody's.
    [[ $op == cross_entropy && $1 == f32 ]] && continue
    part "time-$op-$1" "$2" bin/vicugna kernels time "$op" --rows "$rows" --dtype "$1" --lines "$work/time-$op-$1.lines"
  done
}

case ${1-} in
  pack | run | profile | sanitize | graphs) "$@" ;;
  *) fail "usage: gpu_check.sh pack FILE.tar.gz | run [--quick] [OUT]" ;;
esac
