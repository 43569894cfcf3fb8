//! The border to C: the only code that follows a pointer of the caller.
//!
//! Each type here stands in the place of a pointer in an exported function's signature. That a pointer that is not null
//! may be followed is the caller's promise, by the contract of the CUDA driver API; null is an error.

#![expect(unsafe_code, reason = "a caller's pointers are followed here and nowhere else")]

use crate::status::{Failure, Result, Status, invalid};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

/// What every exported function does: no panic leaves it, and a failure's detail is kept.
pub fn entry(body: impl FnOnce() -> Result) -> Status {
    if CALLING_BACK.get() {
        let detail = "a host function called the driver, which it must not";
        return Failure::new(Status::NOT_PERMITTED, detail).report();
    }
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::SUCCESS,
        Ok(Err(failure)) => failure.report(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Failure::new(Status::UNKNOWN, format!("the emulated driver panicked: {text}")).report()
        }
    }
}

/// A place that the caller wants written.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Out<T>(*mut T);

impl<T: Copy> Out<T> {
    pub fn null() -> Self {
        Self(std::ptr::null_mut())
    }

    /// The same place for a value whose type an argument says.
    pub fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }

    /// The place, before anything is done whose result would be lost.
    pub fn place(self) -> Result<Place<T>> {
        NonNull::new(self.0).map_or_else(|| invalid("the place for a result is null"), |place| Ok(Place(place)))
    }

    /// What stands in a place that the caller has filled.
    pub fn get(self) -> Result<T> {
        In(self.0.cast_const()).get()
    }

    /// Writes where the caller gave a place.
    pub fn set_if_wanted(self, value: T) {
        if let Ok(place) = self.place() {
            place.set(value);
        }
    }

    /// Writes the first elements of the caller's array, which has room for `room`.
    pub fn fill(self, values: &[T], room: usize) -> Result {
        let start = self.place()?.0.as_ptr();
        for (at, value) in values.iter().take(room).enumerate() {
            // SAFETY: `at` is below the number of elements that the caller says there is room for.
            let place = unsafe { start.add(at) };
            // SAFETY: as above; the write needs no alignment.
            unsafe { place.write_unaligned(*value) };
        }
        Ok(())
    }
}

/// A place for a result that is not null.
#[derive(Clone, Copy)]
pub struct Place<T>(NonNull<T>);

impl<T: Copy> Place<T> {
    pub fn set(self, value: T) {
        // SAFETY: the caller gave this place for a result of this type; the write needs no alignment.
        unsafe { self.0.as_ptr().write_unaligned(value) };
    }
}

/// A value, or an array of them, that the caller gives by its address.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub struct In<T>(*const T);

impl<T: Copy> In<T> {
    /// The same address of a value whose type an argument says.
    pub fn cast<U>(self) -> In<U> {
        In(self.0.cast())
    }

    pub fn null() -> Self {
        Self(std::ptr::null())
    }

    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub fn get(self) -> Result<T> {
        self.at(0)
    }

    /// An element of an array that is as long as the caller says.
    pub fn at(self, number: usize) -> Result<T> {
        if self.0.is_null() {
            return invalid("an argument's address is null");
        }
        // SAFETY: the caller gave an array of more than `number` elements.
        let place = unsafe { self.0.add(number) };
        // SAFETY: as above; the read needs no alignment.
        Ok(unsafe { place.read_unaligned() })
    }
}

/// A text that ends with a zero byte.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(*const c_char);

impl Text {
    pub fn bytes<'a>(self) -> Result<&'a [u8]> {
        if self.0.is_null() {
            return invalid("a text's address is null");
        }
        // SAFETY: the caller gave a text that ends with a zero byte, and leaves it alone during the call.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_bytes())
    }

    pub fn get<'a>(self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).or_else(|_| invalid("a text is not UTF-8"))
    }
}

/// An address in host memory.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host(pub usize);

impl Host {
    pub fn read<'a>(self, bytes: usize) -> Result<&'a [u8]> {
        let start = self.start(bytes)?;
        // SAFETY: the caller says that so many bytes may be read there, and leaves them alone until they were.
        Ok(unsafe { std::slice::from_raw_parts(start, bytes) })
    }

    pub fn write<'a>(self, bytes: usize) -> Result<&'a mut [u8]> {
        let start = self.start(bytes)?;
        // SAFETY: the caller says that so many bytes may be written there, and leaves them alone until they were.
        Ok(unsafe { std::slice::from_raw_parts_mut(start, bytes) })
    }

    fn start(self, bytes: usize) -> Result<*mut u8> {
        match self.0 {
            0 if bytes == 0 => Ok(NonNull::dangling().as_ptr()),
            0 => invalid("a host address is null"),
            address if bytes > isize::MAX as usize - address.min(isize::MAX as usize) => {
                invalid(format!("{bytes} bytes at host address {address:#x} are more than there can be"))
            }
            address => Ok(std::ptr::with_exposed_provenance_mut(address)),
        }
    }
}

thread_local! {
    /// Whether this thread is inside a host function of a stream.
    static CALLING_BACK: Cell<bool> = const { Cell::new(false) };
}

/// A function of the caller that a stream calls.
#[derive(Clone, Copy)]
pub struct Callback {
    pub function: extern "C" fn(*mut c_void),
    pub argument: usize,
}

impl Callback {
    /// Calls it; until it returns, this thread's calls of the driver are refused.
    pub fn call(self) {
        CALLING_BACK.set(true);
        (self.function)(std::ptr::with_exposed_provenance_mut(self.argument));
        CALLING_BACK.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        assert_eq!(entry(|| panic!("out of {}", "luck")), Status::UNKNOWN);
        let text = Status::UNKNOWN.text().unwrap().to_str().unwrap();
        assert_eq!(text, "unknown error: the emulated driver panicked: out of luck");
        assert_eq!(entry(|| Ok(())), Status::SUCCESS);
    }
}
