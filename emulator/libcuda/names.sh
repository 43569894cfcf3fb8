#!/usr/bin/env bash
# Writes src/names.rs: every name that a program may look for in libcuda, those that this crate defines and those that it
# does not. The names are all of cudarc's `driver::sys` and of cust_raw, from the sources that cargo fetched.
set -euo pipefail
cd "$(dirname "$0")"

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
lines() { fmt -w 112 | sed 's/^/        /'; }

{
  cat <<'END'
//! Every name that a program may look for in libcuda. Written by names.sh.

#![expect(unsafe_code, reason = "exported names")]

use crate::api::{
    address::*, context::*, copy::*, device::*, event::*, fill::*, function::*, host::*, init::*, launch::*, memory::*,
    module::*, occupancy::*, pool::*, stream::*,
};
use crate::status::{Failure, Status};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// What a function does that is not there: says so once, and fails.
fn missing(name: &'static str) -> Status {
    static SAID: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(name) {
        eprintln!("emulated libcuda: {name} is not supported");
    }
    Failure::new(Status::NOT_SUPPORTED, name).report()
}

macro_rules! names {
    (defined { $($defined:ident)* } missing { $($missing:ident)* }) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $missing() -> Status {
                missing(stringify!($missing))
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
} >src/names.rs
