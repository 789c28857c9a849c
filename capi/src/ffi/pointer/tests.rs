use super::*;

/// A struct of a later version: one more member than [`Now`] has.
#[derive(Clone, Copy)]
#[repr(C)]
struct Later {
    size: usize,
    first: u32,
    second: u32,
    third: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Now {
    size: usize,
    first: u32,
    second: u32,
}

// SAFETY: repr(C), its size first, and integers otherwise. The first version had one number, and four
// bytes of padding.
unsafe impl Growing for Now {
    const FIRST: usize = 12;
    const DEFAULT: Self = Self { size: 16, first: 1, second: 2 };
}

fn read_it(pointer: *const Now) -> Result<Now, Failure> {
    // SAFETY: NULL, or a struct of the size that it begins with.
    unsafe { read(pointer, "it") }
}

#[test]
fn a_caller_of_the_first_version_gets_the_default_of_the_rest() {
    let read = read_it(&Now { size: 12, first: 10, second: 99 }).unwrap();
    assert_eq!((read.first, read.second), (10, 2));
}

#[test]
fn an_option_of_a_later_version_is_refused_unless_it_is_unset() {
    let later = Later { size: size_of::<Later>(), first: 10, second: 20, third: 0 };
    let read = read_it((&raw const later).cast()).unwrap();
    assert_eq!((read.first, read.second), (10, 20));
    let later = Later { third: 1, ..later };
    assert!(read_it((&raw const later).cast()).is_err());
}

#[test]
fn a_size_that_can_not_be_is_refused() {
    for size in [0, 11, LARGEST + 1, usize::MAX] {
        assert!(read_it(&Now { size, first: 0, second: 0 }).is_err(), "{size}");
    }
    assert!(read_it(ptr::null()).is_err());
}

#[test]
fn a_result_fills_what_the_caller_knows() {
    let mut later = Later { size: size_of::<Later>(), first: 7, second: 7, third: 7 };
    // SAFETY: the struct of the caller, with its size.
    let out = unsafe { OutStruct::<Now>::new((&raw mut later).cast(), "it") }.unwrap();
    out.set(Now { size: 99, first: 10, second: 20 });
    assert_eq!((later.size, later.first, later.second, later.third), (24, 10, 20, 0));

    let mut first = Now { size: 12, first: 7, second: 7 };
    // SAFETY: as above.
    let out = unsafe { OutStruct::new(&raw mut first, "it") }.unwrap();
    out.set(Now { size: 99, first: 10, second: 20 });
    assert_eq!((first.size, first.first, first.second), (12, 10, 7));
}

#[test]
fn timeouts_are_milliseconds_or_none() {
    assert_eq!(timeout(-1).unwrap(), None);
    assert_eq!(timeout(1500).unwrap(), Some(Duration::from_millis(1500)));
    assert!(timeout(-2).is_err());
}

#[test]
fn a_descriptor_that_is_not_open_is_refused() {
    assert!(duplicate(-1, "fd").unwrap().is_none());
    for fd in [-2, i32::MAX] {
        let failure = duplicate(fd, "fd").unwrap_err();
        assert_eq!((failure.code, failure.errno), (Code::Invalid, libc::EBADF));
    }
}
