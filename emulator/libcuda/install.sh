#!/usr/bin/env bash
# Builds the driver library and puts it where programs and CUDA's build scripts look for libcuda:
#
#   install.sh DIR [PROFILE]    writes DIR/lib64/libcuda.so.1 and DIR/lib64/libcuda.so; cargo's profile is release or dev
#
# Then a program that loads libcuda runs with LD_LIBRARY_PATH=DIR/lib64.
set -euo pipefail
[[ $# == 1 || $# == 2 ]] || { echo "usage: install.sh DIR [PROFILE]" >&2 && exit 2; }
profile=${2-release}
mkdir -p "$1/lib64"
directory=$(cd "$1/lib64" && pwd)
cd "$(dirname "$0")"

cargo build --profile "$profile" --quiet -p ptx-emulator-libcuda
target=$(cargo metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
install -m 755 "$target/${profile/dev/debug}/libptx_emulator_libcuda.so" "$directory/libcuda.so.1"
ln -sf libcuda.so.1 "$directory/libcuda.so"
echo "wrote $directory/libcuda.so.1; run programs with LD_LIBRARY_PATH=$directory"
