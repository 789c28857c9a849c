use std::ptr;

use super::*;

/// A handle of a number, which frees itself.
struct Number(*mut Handle<u32>);

impl Number {
    fn new(number: u32) -> Self {
        Self(Box::into_raw(Handle::new(number)))
    }

    fn call(&self, f: impl FnOnce(&mut u32) -> Result<(), Failure>) -> c_int {
        // SAFETY: made by `new`.
        unsafe { Handle::call(self.0, f) }
    }

    fn message(&self) -> String {
        // SAFETY: made by `new`, and the message is a string.
        unsafe { CStr::from_ptr(Handle::message(self.0)) }.to_str().unwrap().to_owned()
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and freed once.
        unsafe { Handle::free(self.0, |_, _| Ok(())) };
    }
}

#[test]
fn a_panic_is_a_code_and_breaks_the_handle() {
    let number = Number::new(1);
    assert_eq!(number.call(|_| panic!("inside")), Code::Panic as c_int);
    assert!(number.message().contains("inside"));
    let mut called = false;
    let code = number.call(|_| {
        called = true;
        Ok(())
    });
    assert_eq!((code, called), (Code::Panic as c_int, false));
    assert!(number.message().contains("inside"));
    // SAFETY: made by `new`.
    let copy = unsafe { Handle::copy(number.0, "number") };
    assert_eq!(copy.unwrap_err().code, Code::Panic);
}

#[test]
fn a_panic_at_the_end_is_a_code() {
    let handle = Box::into_raw(Handle::new(1));
    // SAFETY: made above, and freed once.
    let code = unsafe { Handle::free(handle, |_, _| panic!("at the end")) };
    assert_eq!(code, Code::Panic as c_int);
    assert_eq!(super::code(|| panic!("without a handle")), Code::Panic as c_int);
}

#[test]
fn a_handle_in_use_is_refused() {
    let number = Number::new(1);
    let mut inner = None;
    let code = number.call(|_| {
        inner = Some(number.call(|_| Ok(())));
        // SAFETY: made by `new`.
        let (message, errno) =
            unsafe { (CStr::from_ptr(Handle::message(number.0)), Handle::errno(number.0)) };
        assert_eq!((message, errno), (Code::Busy.text(), 0));
        // SAFETY: as above.
        let code = unsafe { Handle::free(number.0, |_, _| Ok(())) };
        assert_eq!(code, Code::Busy as c_int);
        Ok(())
    });
    assert_eq!((code, inner), (0, Some(Code::Busy as c_int)));
}

#[test]
fn the_message_is_that_of_the_last_call() {
    let number = Number::new(1);
    let failure = Failure { errno: 2, ..Failure::new(Code::System, "one\0two") };
    assert_eq!(number.call(|_| Err(failure)), Code::System as c_int);
    assert_eq!(number.message(), "onetwo");
    // SAFETY: made by `new`.
    assert_eq!(unsafe { Handle::errno(number.0) }, 2);
    assert_eq!(number.call(|_| Ok(())), 0);
    assert_eq!(number.message(), "");
    // SAFETY: as above.
    assert_eq!(unsafe { Handle::errno(number.0) }, 0);
}

#[test]
fn null_is_an_invalid_handle() {
    let null: *mut Handle<u32> = ptr::null_mut();
    // SAFETY: NULL is checked.
    unsafe {
        assert_eq!(Handle::call(null, |_| Ok(())), Code::Invalid as c_int);
        assert_eq!(CStr::from_ptr(Handle::message(null)), Code::Invalid.text());
        assert_eq!(Handle::errno(null), 0);
        assert_eq!(Handle::copy(null, "it").unwrap_err().code, Code::Invalid);
        assert_eq!(Handle::free(null, |_, _| Ok(())), 0);
    }
}

#[test]
fn errno_is_left_alone() {
    let number = Number::new(1);
    Errno::set_raw(7);
    number.call(|_| {
        Errno::set_raw(9);
        Ok(())
    });
    assert_eq!(Errno::last_raw(), 7);
}

#[test]
fn each_code_has_a_text() {
    for code in Code::ALL {
        assert_eq!(text(code as c_int), code.text());
    }
    assert_eq!(text(0), c"no error");
    assert_eq!(text(-99), c"unknown code");
}
