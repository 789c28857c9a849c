//! Returning unused memory to the system before a long wait.
//!
//! A host's heap may be gigabytes, so each function documents its cost.

/// glibc's initial threshold.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MMAP_THRESHOLD: libc::c_int = 128 << 10;

/// Fixes the size from which a heap block gets a mapping of its own, so that it returns to the
/// system when it is freed. Call it once, at the start.
///
/// By default glibc raises this threshold from 128 KiB to the size of each such freed block, up to
/// 32 MiB (mallopt(3)), after which a large freed buffer stays in the heap. A no-op with another
/// libc.
///
/// # Safety
///
/// No other thread exists yet: mallopt(3) is MT-Unsafe.
#[allow(unsafe_code)]
pub unsafe fn fix_heap_threshold() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two integers and sets parameters of the allocator. The caller ensures
    // that no other thread exists.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD)
    };
}

/// Returns the unused pages of the heap to the system.
///
/// For the beginning of a long wait. It takes the allocator's locks and walks all free blocks
/// (malloc_trim(3)): microseconds in a small process, milliseconds in one of gigabytes. A no-op
/// with a libc other than glibc.
#[allow(unsafe_code)]
pub fn trim_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim frees no used block and is MT-Safe (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Returns the stack pages below the caller's frame, which earlier deeper calls have used.
///
/// A no-op on systems other than Linux, without `/proc`, and on threads other than the main one.
///
/// # Safety
///
/// The caller runs on the main thread's own stack, and everything alive on that stack is above the
/// caller's frame. That is not so in a coroutine whose stack is a buffer on the main stack.
#[allow(unsafe_code)]
pub unsafe fn trim_stack() {
    #[cfg(target_os = "linux")]
    stack::trim();
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
mod stack {
    use std::fs::File;
    use std::io::{BufRead, BufReader};
    use std::ops::Range;

    use nix::unistd::{SysconfVar, sysconf};

    /// The bytes that are kept below this frame: the red zone, and the frame of madvise(2).
    const MARGIN: usize = 1 << 10;

    pub(super) fn trim() {
        // The layout below another thread's stack is unknown.
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
        // SAFETY: the range lies in the mapping of the main thread's stack, below this frame and
        // that of the call (MARGIN). Stacks grow down on every supported architecture of Linux, and
        // the caller of `trim_stack` ensures that nothing below its frame is alive. A signal
        // handler that uses the range has returned before this call, or starts after it.
        unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) };
    }

    /// The mapping of the main thread's stack (proc_pid_maps(5)).
    fn main_stack() -> Option<Range<usize>> {
        // Read line by line: the whole file would dirty pages of the heap.
        let maps = BufReader::with_capacity(256, File::open("/proc/self/maps").ok()?);
        let line = maps.lines().map_while(Result::ok).find(|line| line.ends_with("[stack]"))?;
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
    }
}
