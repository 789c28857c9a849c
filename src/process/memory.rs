//! Memory that a process holds and does not need: giving it back before a long wait.
//!
//! A host's heap may be gigabytes, so each function says what it costs.

/// Has every large block of the heap mapped by itself, so that it goes back to the system when it
/// is freed. To be called once, early.
///
/// glibc raises this limit of 128 KiB to the size of each such block that is freed (mallopt(3)),
/// up to 32 MiB: then one large buffer stays for good. A no-op where glibc is not the libc.
///
/// # Safety
///
/// No other thread exists yet: mallopt(3) is MT-Unsafe.
#[allow(unsafe_code)]
pub unsafe fn settle_heap() {
    allocator::fix_thresholds();
}

/// Gives the pages of the heap that hold nothing back to the system.
///
/// For when the work is done and a long wait begins. It takes the allocator's locks and looks
/// through all free blocks (malloc_trim(3)): microseconds in a small process, milliseconds in one
/// of gigabytes. A no-op where glibc is not the libc.
pub fn trim_heap() {
    allocator::trim();
}

/// Gives back the pages below the caller's stack frame, which deeper calls have used before.
///
/// A no-op on any system but Linux, without `/proc`, and on any thread but the main one.
///
/// # Safety
///
/// The caller runs on the stack that the kernel has given the main thread, and all that lives on
/// that stack lies above the caller's frame. A coroutine whose stack is a buffer on it does not.
#[allow(unsafe_code)]
pub unsafe fn trim_stack() {
    stack::trim();
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
mod stack {
    use std::fs::File;
    use std::io::{BufRead, BufReader};
    use std::ops::Range;

    use nix::unistd::{SysconfVar, sysconf};

    /// What stays below this frame: the red zone, and the frame of the call that gives the rest
    /// back.
    const MARGIN: usize = 1 << 10;

    pub(super) fn trim() {
        // Another thread's stack may have anything below it.
        let Some(stack) = main_stack() else { return };
        let Ok(Some(page)) = sysconf(SysconfVar::PAGE_SIZE) else { return };
        if let Ok(page @ 1..) = usize::try_from(page) {
            release_below(&stack, page);
        }
    }

    /// A function of its own, so that its frame is small.
    #[inline(never)]
    fn release_below(stack: &Range<usize>, page: usize) {
        let local = 0_u8;
        let here = std::hint::black_box(&raw const local).addr();
        if !stack.contains(&here) {
            return;
        }
        let end = (here - MARGIN) / page * page;
        let Some(length) = end.checked_sub(stack.start) else { return };
        let start = std::ptr::without_provenance_mut(stack.start);
        // SAFETY: all of it lies in the mapping of the main thread's stack, and below this frame
        // and its callee's (MARGIN). Stacks grow down on every architecture that Linux has here,
        // and the caller of `trim_stack` vouches that nothing below its frame lives. A signal
        // handler that used it has returned before this call, or begins after it.
        unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) };
    }

    /// The mapping of the main thread's stack (proc_pid_maps(5)).
    fn main_stack() -> Option<Range<usize>> {
        // A line at a time: the whole of it would dirty a page or two of the heap.
        let maps = BufReader::with_capacity(256, File::open("/proc/self/maps").ok()?);
        let line = maps.lines().map_while(Result::ok).find(|line| line.ends_with("[stack]"))?;
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
    }
}

#[cfg(not(target_os = "linux"))]
mod stack {
    pub(super) fn trim() {}
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
mod allocator {
    /// What glibc begins with.
    const MMAP_THRESHOLD: libc::c_int = 128 << 10;

    pub(super) fn fix_thresholds() {
        // SAFETY: mallopt takes two integers and only sets parameters of the allocator, and the
        // caller of `settle_heap` vouches that no other thread reads them meanwhile.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD) };
    }

    pub(super) fn trim() {
        // SAFETY: malloc_trim frees no block that is in use, and may be called from any thread
        // (malloc_trim(3): MT-Safe).
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod allocator {
    pub(super) fn fix_thresholds() {}

    pub(super) fn trim() {}
}
