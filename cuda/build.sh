#!/usr/bin/env bash
# Compiles cuda/<op>.cu to ptx/<op>.ptx with NVIDIA's compiler from PyPI, refuses what the kernels may not contain, and
# assembles the result for six architectures, whose machine code it reads, into the tables of docs/kernel-budget.md. Needs
# python3 and g++, no CUDA.
#
#   cuda/build.sh           writes ptx/ and docs/kernel-budget.md
#   cuda/build.sh --check   compares them with what it would write, byte for byte
#
# Where PyPI cannot be reached --check says "SKIPPED" and why, and exits 0.
set -euo pipefail
cd "$(dirname "$0")/.."

# All five or none, and --no-deps: pip would mix in other versions, whose output this ptxas refuses.
wheels=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85)
# It reads what any assembler wrote: its version is its own.
disassembler=nvidia-cuda-nvdisasm==13.2.51
archs=(80 86 89 90 100 120)

case "${1-}" in
  "") check=false ;;
  --check) check=true ;;
  *) echo "usage: cuda/build.sh [--check]" >&2 && exit 2 ;;
esac

fail() {
  echo "cuda/build.sh: $*" >&2
  exit 1
}

# .cuda/wheels names what the last complete installation put there.
install_compiler() {
  [[ "$(cat .cuda/wheels 2>/dev/null)" == "${wheels[*]} $disassembler" ]] && return
  rm -rf .cuda
  python3 -m venv .cuda || fail "python3 has no venv module; on Debian: apt install python3-venv"
  if ! .cuda/bin/pip install -q --disable-pip-version-check --retries 1 --no-deps "${wheels[@]}" \
    "$disassembler" 2>"$temp/pip"; then
    cat "$temp/pip" >&2
    if $check && grep -qiE "connection|timed out|name resolution|network" "$temp/pip"; then
      echo "SKIPPED: ptx/ was not compared with cuda/: the compiler's package index cannot be reached"
      exit 0
    fi
    fail "pip could not install ${wheels[*]} $disassembler"
  fi
  echo "${wheels[*]} $disassembler" >.cuda/wheels
}

# nvcc writes its own release's PTX version, which only drivers of that release load: 8.0 loads from CUDA 12.1 on (12.0
# crashes on line information for sm_90), and ptxas refuses a file that claims less than it uses. It also writes absolute
# paths. A path that is not ours would make the file depend on the machine: the functions of NVIDIA's headers that cause
# one stand in ptx.cuh and common.cuh.
compile() {
  "$nvidia/bin/nvcc" -ptx -std=c++17 -arch=compute_80 -lineinfo -o "$temp/raw/$1.ptx" "cuda/$1.cu"
  sed -e 's/^\.version .*/.version 8.0/' -e "s|\"$PWD/cuda/|\"cuda/|" "$temp/raw/$1.ptx" >"$temp/ptx/$1.ptx"
  if grep '\.file.*"/' "$temp/ptx/$1.ptx"; then return 1; fi
}

assemble() {
  "$nvidia/bin/ptxas" -v -warn-spills -warn-lmem-usage -Werror -arch="sm_$2" -o "$temp/$1.$2.cubin" \
    "$temp/ptx/$1.ptx" >"$temp/ptxas/$1.$2" 2>&1 || { cat "$temp/ptxas/$1.$2" >&2 && return 1; }
  "$nvidia/bin/nvdisasm" -c -hex "$temp/$1.$2.cubin" >"$temp/sass/$1.$2"
}

# Local memory, calls, double precision, and accesses whose address space is not known.
refuse_forbidden() {
  local found
  found=$(grep -nE '\.local|(^|[[:space:]])call|\.f64' "$temp"/ptx/{,ladder/}*.ptx || true)
  found+=$(grep -nE '(^|[[:space:]])(ld|st|atom|red)\.' "$temp"/ptx/{,ladder/}*.ptx |
    grep -vE '[[:space:]](ld|st|atom|red)\.([a-z]+\.)*(global|shared|param|const)' || true)
  [[ -z "$found" ]] || fail "forbidden in a kernel:"$'\n'"${found//$temp\//}"
}

temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
mkdir -p "$temp"/ladder "$temp"/{raw,ptx,ptxas,sass}/ladder
install_compiler
nvidia=$(echo .cuda/lib/python3.*/site-packages/nvidia/cu13)
export -f compile assemble
export temp nvidia

ops=()
for source in cuda/{,ladder/}*.cu; do source=${source#cuda/} && ops+=("${source%.cu}"); done
printf 'compile %s\n' "${ops[@]}" | xargs -P "$(nproc)" -I{} bash -euc '{}' || fail "a kernel does not compile"
refuse_forbidden
for op in "${ops[@]}"; do printf "assemble $op %s\n" "${archs[@]}"; done |
  xargs -P "$(nproc)" -I{} bash -euc '{}' || fail "a kernel does not assemble"
python3 cuda/sass.py --test || fail "cuda/sass.py does not see what it must"
python3 cuda/budget.py cuda "$temp/ptx" "$temp/ptxas" "$temp/sass" >"$temp/kernel-budget.md"

if $check; then
  diff -rq ptx "$temp/ptx" || fail "ptx/ is not what cuda/ compiles to: run cuda/build.sh"
  diff -u docs/kernel-budget.md "$temp/kernel-budget.md" || fail "docs/kernel-budget.md is old: run cuda/build.sh"
  echo "ptx/ and docs/kernel-budget.md are what cuda/ compiles to"
else
  rm -rf ptx && cp -r "$temp/ptx" ptx && cp "$temp/kernel-budget.md" docs/kernel-budget.md
  echo "wrote ptx/ and docs/kernel-budget.md"
fi
