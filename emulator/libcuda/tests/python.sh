#!/usr/bin/env bash
# Runs driver.py with NVIDIA's cuda-bindings from PyPI on the library in DIR/lib64, which install.sh wrote.
# Where pip cannot give it, it says "SKIPPED" and why, and exits 0.
#
#   python.sh DIR [VERSION]
set -euo pipefail
[[ $# == 1 || $# == 2 ]] || { echo "usage: python.sh DIR [VERSION]" >&2 && exit 2; }
library=$(cd "$1/lib64" && pwd)
version=${2-12.9.10}
cd "$(dirname "$0")"

venv=../../../target/cuda-bindings-$version
if ! "$venv/bin/python" -c 'import cuda.bindings' 2>/dev/null; then
  python3 -m venv "$venv" &&
    "$venv/bin/pip" install -q --disable-pip-version-check --retries 1 "cuda-bindings==$version" ||
    { echo "SKIPPED: NVIDIA's Python bindings were not run: pip cannot give cuda-bindings $version" && exit 0; }
fi
LD_LIBRARY_PATH=$library timeout 120 "$venv/bin/python" driver.py ../../../ptx/rmsnorm.ptx
