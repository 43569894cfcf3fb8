#!/usr/bin/env bash
# Writes src/names.rs: every name that a program may look for in libcuda, those that this crate defines and those that it
# does not. The names are all of cudarc's `driver::sys` and of cust_raw, from the sources that `cargo fetch` brings.
#
#   names.sh           writes src/names.rs
#   names.sh --check   compares it with what it would write
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")"
case "${1-}" in
  "") target=src/names.rs ;;
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
  cat <<'END'
//! Every name that a program may look for in libcuda. Written by names.sh.

#![expect(unsafe_code, reason = "exported names")]

use crate::api::{
    address::*, context::*, copy::*, device::*, event::*, fill::*, function::*, host::*, init::*, launch::*,
    library::*, memory::*, module::*, occupancy::*, pool::*, rows::*, stream::*,
};
use crate::status::{Failure, Status, say_once};

/// What a function does that is not there: says so once, and fails.
fn missing(name: &'static str, text: &'static str) -> Status {
    say_once(text);
    Failure::new(Status::NOT_SUPPORTED, name).report()
}

macro_rules! names {
    (defined { $($defined:ident)* } missing { $($missing:ident)* }) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $missing() -> Status {
                missing(stringify!($missing), concat!(stringify!($missing), " is not supported"))
            }
        )*

        /// The function of a name.
        pub fn address(name: &str) -> Option<*const ()> {
            Some(match name {
                $(stringify!($defined) => $defined as *const (),)*
                $(stringify!($missing) => $missing as *const (),)*
                _ => return None,
            })
        }
    };
}

names! {
    defined {
END
  sort -u <(defined) | lines
  printf '    }\n    missing {\n'
  comm -23 <(known | sort -u) <(defined | sort -u) | lines
  printf '    }\n}\n'
} >"$target"
diff -u src/names.rs "$target" || { echo "names.sh: src/names.rs is old: run names.sh" >&2 && exit 1; }
