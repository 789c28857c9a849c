//! Handles: one user at a time, no panic across the border, the message of the last failure.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

use super::pointer::c_string;
use crate::failure::{Code, Failure};

/// What a pointer to an opaque type of `vmon.h` points to.
pub struct Handle<T> {
    /// Whether a thread uses it now.
    busy: AtomicBool,
    inner: UnsafeCell<Inner<T>>,
}

struct Inner<T> {
    value: T,
    /// Of the last call, empty if it succeeded.
    message: CString,
    errno: c_int,
    /// The message of a panic, after which `value` may be half changed.
    broken: Option<String>,
}

impl<T> Handle<T> {
    pub fn new(value: T) -> Box<Self> {
        let inner = Inner { value, message: CString::default(), errno: 0, broken: None };
        Box::new(Self { busy: AtomicBool::new(false), inner: UnsafeCell::new(inner) })
    }

    /// Calls `f` with what a handle is for, and returns the code of its result.
    ///
    /// # Safety
    ///
    /// `handle` is NULL or a pointer of [`Box::into_raw`] that has not been freed.
    pub unsafe fn call(
        handle: *const Self,
        f: impl FnOnce(&mut T) -> Result<(), Failure>,
    ) -> c_int {
        let errno = Errno::last_raw();
        // SAFETY: by this function's contract.
        let code = match unsafe { handle.as_ref() } {
            Some(handle) => handle.enter(|inner| inner.call(f)).unwrap_or(Code::Busy as c_int),
            None => Code::Invalid as c_int,
        };
        Errno::set_raw(errno);
        code
    }

    /// A copy of what a handle is for.
    ///
    /// # Safety
    ///
    /// As [`call`](Self::call).
    pub unsafe fn copy(handle: *const Self, what: &str) -> Result<T, Failure>
    where
        T: Clone,
    {
        // SAFETY: by this function's contract.
        let Some(handle) = (unsafe { handle.as_ref() }) else {
            return Err(Failure::invalid(format!("{what} is NULL")));
        };
        let copy = handle.enter(|inner| match &inner.broken {
            Some(panic) => Err(is_broken(panic)),
            None => Ok(inner.value.clone()),
        });
        copy.unwrap_or_else(|| {
            Err(Failure::new(Code::Busy, format!("another thread is using {what}")))
        })
    }

    /// The message of the last call, until the next one.
    ///
    /// # Safety
    ///
    /// As [`call`](Self::call).
    pub unsafe fn message(handle: *const Self) -> *const c_char {
        // SAFETY: by this function's contract.
        let message = match unsafe { handle.as_ref() } {
            Some(handle) => handle.enter(|inner| inner.message.as_ptr()),
            None => Some(Code::Invalid.text().as_ptr()),
        };
        message.unwrap_or(Code::Busy.text().as_ptr())
    }

    /// The errno of the last call.
    ///
    /// # Safety
    ///
    /// As [`call`](Self::call).
    pub unsafe fn errno(handle: *const Self) -> c_int {
        // SAFETY: by this function's contract.
        let handle = unsafe { handle.as_ref() };
        handle.and_then(|handle| handle.enter(|inner| inner.errno)).unwrap_or(0)
    }

    /// Frees a handle, unless it is NULL, after `last`, whose argument is whether it is broken.
    ///
    /// # Safety
    ///
    /// As [`call`](Self::call). The pointer is not used afterwards, unless this returns the code of
    /// [`Code::Busy`].
    pub unsafe fn free(
        handle: *mut Self,
        last: impl FnOnce(&mut T, bool) -> Result<(), Failure>,
    ) -> c_int {
        let errno = Errno::last_raw();
        // SAFETY: by this function's contract.
        let code = match unsafe { handle.as_ref() } {
            None => 0,
            // Never reset: it is freed.
            Some(handle) if handle.busy.swap(true, Ordering::Acquire) => Code::Busy as c_int,
            Some(_) => {
                // SAFETY: made by `new`, used by no other thread, and freed once.
                let mut inner = unsafe { Box::from_raw(handle) }.inner.into_inner();
                let broken = inner.broken.is_some();
                let freed = catch_unwind(AssertUnwindSafe(|| {
                    let ended = last(&mut inner.value, broken);
                    drop(inner);
                    ended
                }));
                match freed {
                    Ok(Ok(())) => 0,
                    Ok(Err(failure)) => failure.code as c_int,
                    Err(_) => Code::Panic as c_int,
                }
            }
        };
        Errno::set_raw(errno);
        code
    }

    /// Calls `f` unless another thread is using the handle.
    fn enter<R>(&self, f: impl FnOnce(&mut Inner<T>) -> R) -> Option<R> {
        if self.busy.swap(true, Ordering::Acquire) {
            return None;
        }
        // SAFETY: `busy` was false, and is true until this is over, so there is no other reference.
        let result = f(unsafe { &mut *self.inner.get() });
        self.busy.store(false, Ordering::Release);
        Some(result)
    }
}

impl<T> Inner<T> {
    fn call(&mut self, f: impl FnOnce(&mut T) -> Result<(), Failure>) -> c_int {
        let result = match &self.broken {
            Some(panic) => Err(is_broken(panic)),
            None => catch(|| f(&mut self.value)),
        };
        match result {
            Ok(()) => {
                (self.message, self.errno) = (CString::default(), 0);
                0
            }
            Err(failure) => {
                if failure.code == Code::Panic {
                    self.broken = Some(failure.message.clone());
                }
                (self.message, self.errno) = (c_string(failure.message), failure.errno);
                failure.code as c_int
            }
        }
    }
}

/// Calls `f`; a panic is a failure.
pub fn catch<R>(f: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    // What `f` has left half changed is not used again.
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|payload| {
        let message = format!("fault of the library, please report it: {}", text_of(&*payload));
        Err(Failure::new(Code::Panic, message))
    })
}

/// The code of a call without a handle.
pub fn code(f: impl FnOnce() -> Result<(), Failure>) -> c_int {
    let errno = Errno::last_raw();
    let code = catch(f).map_or_else(|failure| failure.code as c_int, |()| 0);
    Errno::set_raw(errno);
    code
}

/// The text of a code, also of a number that is none.
pub fn text(code: c_int) -> &'static CStr {
    let known = Code::ALL.into_iter().find(|it| *it as c_int == code);
    match (code, known) {
        (0, _) => c"no error",
        (_, Some(code)) => code.text(),
        (_, None) => c"unknown code",
    }
}

fn is_broken(panic: &str) -> Failure {
    Failure::new(Code::Panic, panic)
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests;
