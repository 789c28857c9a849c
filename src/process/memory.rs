//! Memory that a process holds and does not need: giving it back before a long wait.
//!
//! A host's heap may be gigabytes, so each function says what it costs.

/// Has every large block of the heap mapped by itself, so that it goes back to the system when it
/// is freed. To be called once, early.
///
/// glibc raises this limit of 128 KiB to the size of each such block that is freed (mallopt(3)),
/// up to 32 MiB: then one large buffer stays for good. A no-op where glibc is not the libc.
pub fn settle_heap() {
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
/// On the main thread of a Linux process only, elsewhere a no-op: other threads' stacks may end
/// anywhere.
pub fn trim_stack() {
    stack::trim();
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
mod stack {
    use nix::unistd::{Pid, gettid};

    /// How far down pages are given back: what the main thread's stack has at least.
    const REACH: usize = 128 << 10;
    /// What stays below this frame, for the call that gives the rest back.
    const MARGIN: usize = 8 << 10;
    /// A multiple of the page size of every architecture.
    const ALIGN: usize = 64 << 10;

    #[inline(never)]
    pub(super) fn trim() {
        if gettid() != Pid::this() {
            return;
        }
        let local = 0_u8;
        let here = std::hint::black_box(&raw const local).addr();
        let page = page_size();
        let end = here.saturating_sub(MARGIN) / page * page;
        let start = here.saturating_sub(REACH) / page * page;
        // SAFETY: the stack grows down on every architecture that Linux has here, so all below
        // this frame and its callees' (MARGIN) is dead. Pages of this range that are not the
        // stack's do not exist: the kernel keeps 1 MiB below the main thread's stack free
        // (stack_guard_gap), and madvise skips what is not mapped (ENOMEM, madvise(2)).
        unsafe {
            libc::madvise(std::ptr::without_provenance_mut(start), end - start, libc::MADV_DONTNEED)
        };
    }

    fn page_size() -> usize {
        // SAFETY: sysconf takes a number.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(size).ok().filter(|size| *size > 0).unwrap_or(ALIGN)
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
        // SAFETY: mallopt takes two integers and only sets parameters of the allocator.
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
