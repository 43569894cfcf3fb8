//! Every name that a program may look for in libcuda: those that `api` defines, and those that are there to say that
//! they are not supported.

#![expect(unsafe_code, reason = "exported names")]

use crate::api::{
    address::*, context::*, copy::*, device::*, event::*, fill::*, function::*, graph::*, host::*, init::*, launch::*,
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

// The list, which names.sh writes.
include!("names.in");
