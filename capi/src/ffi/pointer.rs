//! What the caller passes, and where results go.

use std::ffi::{CStr, CString, OsStr, c_char, c_void};
use std::mem;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr::{self, NonNull};
use std::time::Duration;

use vmon::monitor::SandboxId;

use crate::failure::{Code, Failure};

/// The largest size of a struct that is believed.
const LARGEST: usize = 4096;

/// A pointer for one result.
pub struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    /// # Safety
    ///
    /// `pointer` is NULL, or valid for the write of a `T` as long as this exists.
    pub unsafe fn new(pointer: *mut T, what: &str) -> Result<Self, Failure> {
        NonNull::new(pointer).map(Self).ok_or_else(|| is_null(what))
    }

    pub fn set(&self, value: T) {
        // SAFETY: valid for a write, by `new`. What was there is the caller's, and has no destructor.
        unsafe { self.0.write(value) };
    }
}

/// A struct of `vmon.h` that begins with its size. Later versions append members.
///
/// # Safety
///
/// `repr(C)`, its first member is the size as a `usize`, and all zeros are a value of it.
pub unsafe trait Growing: Copy {
    /// Its size in the first version that had it.
    const FIRST: usize;
    /// With every member that the caller does not know at its default.
    const DEFAULT: Self;
}

/// Reads a struct, with the defaults of the members that the caller does not know.
///
/// # Safety
///
/// `pointer` is NULL, or valid for reads of as many bytes as it begins with as a `usize`.
pub unsafe fn read<T: Growing>(pointer: *const T, what: &str) -> Result<T, Failure> {
    // SAFETY: by this function's contract.
    let size = unsafe { size_of_struct(pointer, what) }?;
    let bytes = pointer.cast::<u8>();
    for offset in mem::size_of::<T>()..size {
        // SAFETY: within the size of the caller's struct.
        if unsafe { bytes.add(offset).read() } != 0 {
            let message = format!("{what} sets an option of a later version of the library");
            return Err(Failure::invalid(message));
        }
    }
    let mut value = T::DEFAULT;
    let known = size.min(mem::size_of::<T>());
    // SAFETY: `known` bytes are within both structs, which do not overlap. Any bytes are a value of the
    // integers and pointers that these structs consist of.
    unsafe { ptr::copy_nonoverlapping(bytes, (&raw mut value).cast::<u8>(), known) };
    Ok(value)
}

/// Where a struct goes.
pub struct OutStruct<T> {
    pointer: NonNull<T>,
    size: usize,
}

impl<T: Growing> OutStruct<T> {
    /// # Safety
    ///
    /// `pointer` is NULL, or valid for reads and writes of as many bytes as it begins with as a
    /// `usize`, as long as this exists.
    pub unsafe fn new(pointer: *mut T, what: &str) -> Result<Self, Failure> {
        // SAFETY: by this function's contract.
        let size = unsafe { size_of_struct(pointer, what) }?;
        let pointer = NonNull::new(pointer).ok_or_else(|| is_null(what))?;
        Ok(Self { pointer, size })
    }

    /// Writes the members that the caller knows, except for the size, and zeros for those that this
    /// version does not know.
    pub fn set(&self, value: T) {
        let start = mem::size_of::<usize>();
        let known = self.size.min(mem::size_of::<T>());
        let (from, to) = ((&raw const value).cast::<u8>(), self.pointer.as_ptr().cast::<u8>());
        // SAFETY: both ranges are within the caller's struct, and the first one is in ours, which does
        // not overlap it.
        unsafe {
            ptr::copy_nonoverlapping(from.add(start), to.add(start), known.saturating_sub(start));
            ptr::write_bytes(to.add(known), 0, self.size - known);
        }
    }
}

/// # Safety
///
/// `pointer` is NULL or valid for the read of a `usize`.
unsafe fn size_of_struct<T: Growing>(pointer: *const T, what: &str) -> Result<usize, Failure> {
    if pointer.is_null() {
        return Err(is_null(what));
    }
    // SAFETY: not NULL, and so valid. It may be misaligned in languages that pack structs.
    let size = unsafe { pointer.cast::<usize>().read_unaligned() };
    if !(T::FIRST..=LARGEST).contains(&size) {
        let message = format!("{what} has the size {size}: set it with its initializer");
        return Err(Failure::invalid(message));
    }
    Ok(size)
}

/// Reads a string.
///
/// # Safety
///
/// `pointer` is NULL, or a string that ends with NUL and is not changed during `'a`.
pub unsafe fn string<'a>(pointer: *const c_char, what: &str) -> Result<&'a OsStr, Failure> {
    // SAFETY: by this function's contract.
    unsafe { optional_string(pointer) }.ok_or_else(|| is_null(what))
}

/// Reads a string, or `None` for NULL.
///
/// # Safety
///
/// As [`string`].
pub unsafe fn optional_string<'a>(pointer: *const c_char) -> Option<&'a OsStr> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: not NULL, and so a string that ends with NUL.
    Some(OsStr::from_bytes(unsafe { CStr::from_ptr(pointer) }.to_bytes()))
}

/// Reads a string of UTF-8.
///
/// # Safety
///
/// As [`string`].
pub unsafe fn text<'a>(pointer: *const c_char, what: &str) -> Result<&'a str, Failure> {
    // SAFETY: by this function's contract.
    let string = unsafe { string(pointer, what) }?;
    string.to_str().ok_or_else(|| Failure::invalid(format!("{what} is not UTF-8")))
}

/// Reads an array of strings that NULL ends.
///
/// # Safety
///
/// `pointer` is NULL, or an array of pointers that NULL ends, each of them as in [`string`].
pub unsafe fn strings<'a>(
    pointer: *const *const c_char,
    what: &str,
) -> Result<Vec<&'a OsStr>, Failure> {
    if pointer.is_null() {
        return Err(is_null(what));
    }
    let mut strings = Vec::new();
    // SAFETY: the array goes on until NULL.
    while let Some(string) = unsafe { optional_string(*pointer.add(strings.len())) } {
        strings.push(string);
    }
    Ok(strings)
}

/// Reads bytes.
///
/// # Safety
///
/// `pointer` is NULL, or valid for reads of `count` bytes that are not changed during `'a`.
pub unsafe fn bytes<'a>(
    pointer: *const c_void,
    count: usize,
    what: &str,
) -> Result<&'a [u8], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(is_null(what));
    }
    if isize::try_from(count).is_err() {
        return Err(Failure::invalid(format!("{count} {what} are too many")));
    }
    // SAFETY: not NULL, and so valid for `count` bytes, which are no more than an object can have.
    Ok(unsafe { std::slice::from_raw_parts(pointer.cast(), count) })
}

/// A descriptor of the caller's as one of our own; `None` for -1.
pub fn duplicate(fd: RawFd, what: &str) -> Result<Option<OwnedFd>, Failure> {
    if fd == -1 {
        return Ok(None);
    }
    let failed = |error| {
        let failure = Failure::system(&format!("duplicate {what} {fd}"), &error);
        let is_open = failure.errno != libc::EBADF;
        Failure { code: if is_open { Code::System } else { Code::Invalid }, ..failure }
    };
    if fd < 0 {
        return Err(failed(std::io::Error::from_raw_os_error(libc::EBADF)));
    }
    // SAFETY: not -1. One that is not open makes the only call that uses it fail with EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned().map(Some).map_err(failed)
}

/// A timeout of the caller's: milliseconds, -1 for none.
pub fn timeout(milliseconds: i64) -> Result<Option<Duration>, Failure> {
    match milliseconds {
        -1 => Ok(None),
        _ => match u64::try_from(milliseconds) {
            Ok(milliseconds) => Ok(Some(Duration::from_millis(milliseconds))),
            Err(_) => Err(Failure::invalid(format!("the timeout is {milliseconds} ms"))),
        },
    }
}

/// The sandbox of an identifier of the caller's. One that was never given out is not found later.
pub fn sandbox(id: u64) -> SandboxId {
    SandboxId::from_bits(id)
}

/// A string for the caller, without the NULs in it.
pub fn c_string(text: impl Into<String>) -> CString {
    let mut text: String = text.into();
    text.retain(|c| c != '\0');
    CString::new(text).unwrap_or_default()
}

fn is_null(what: &str) -> Failure {
    Failure::invalid(format!("{what} is NULL"))
}

#[cfg(test)]
mod tests;
