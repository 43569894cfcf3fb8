#!/usr/bin/env bash
# Runs driver.py with NVIDIA's cuda-bindings from PyPI on the library in DIR/lib64, which install.sh wrote.
# Where PyPI cannot be reached it says "SKIPPED" and why, and exits 0.
#
#   python.sh DIR [VERSION]
set -euo pipefail
[[ $# == 1 || $# == 2 ]] || { echo "usage: python.sh DIR [VERSION]" >&2 && exit 2; }
library=$(cd "$1/lib64" && pwd)
version=${2-12.9.10}
cd "$(dirname "$0")"

venv=../../../target/cuda-bindings-$version
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! "$venv/bin/python" -c 'import cuda.bindings' 2>/dev/null; then
  python3 -m venv "$venv" || { echo "SKIPPED: python3 has no venv module" && exit 0; }
  if ! "$venv/bin/pip" install -q --disable-pip-version-check --retries 1 "cuda-bindings==$version" 2>"$log"; then
    cat "$log" >&2
    if grep -qiE "connection|timed out|name resolution|network" "$log"; then
      echo "SKIPPED: cuda-bindings was not run: the package index cannot be reached"
      exit 0
    fi
    exit 1
  fi
fi
LD_LIBRARY_PATH=$library timeout 120 "$venv/bin/python" driver.py ../../../ptx/rmsnorm.ptx
