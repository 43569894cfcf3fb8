#!/usr/bin/env bash
# Writes src/names.in: every name that a program may look for in libcuda, those that this crate defines and those that it
# does not. The names are all of cudarc's `driver::sys` and of cust_raw, from the sources that `cargo fetch` brings.
#
#   names.sh           writes src/names.in
#   names.sh --check   compares it with what it would write
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")"
case "${1-}" in
  "") target=src/names.in ;;
  --check) target=$(mktemp) && trap 'rm -f "$target"' EXIT ;;
  *) echo "usage: names.sh [--check]" >&2 && exit 2 ;;
esac

registry=("${CARGO_HOME:-$HOME/.cargo}"/registry/src/*)
cudarc=$(find "${registry[@]}" -path '*/cudarc-0.19.10/src/driver/sys/mod.rs' -print -quit)
cust=$(find "${registry[@]}" -path '*/cust_raw-0.11.3/src/cuda.rs' -print -quit)
[[ -n "$cudarc" && -n "$cust" ]] || { echo "names.sh: run cargo fetch first" >&2 && exit 1; }

known() {
  grep -oP 'load::<_F>\("\K\w+' "$cudarc"
  grep -oP 'pub fn \Kcu[A-Z]\w+' "$cust"
}
defined() {
  grep -ohP 'extern "C" fn \Kcu\w+' src/api/*.rs
  grep -ohP '^    u\d+: \K(cuMemset\w+ ?)+' src/api/fill.rs | tr ' ' '\n'
}
lines() {
  awk -v indent="        " 'length(line $0) > 110 { print indent line; line = "" }
    { line = line (line ? " " : "") $0 }
    END { print indent line }'
}

{
  printf '// Written by names.sh.\nnames! {\n    defined {\n'
  sort -u <(defined) | lines
  printf '    }\n    missing {\n'
  comm -23 <(known | sort -u) <(defined | sort -u) | lines
  printf '    }\n}\n'
} >"$target"
diff -u src/names.in "$target" || { echo "names.sh: src/names.in is old: run names.sh" >&2 && exit 1; }
