//! The structs of `vmon.h`.

use std::ffi::{CString, c_char, c_int};
use std::mem;
use std::ptr;

use vmon::host::SandboxEvent;
use vmon::monitor::{End, Event, Reason, Transition};

use super::pointer::{Growing, c_string};
use crate::failure::errno_of;

/// `vmon_options`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Options {
    pub size: usize,
    pub state_dir: *const c_char,
    pub database: *const c_char,
    pub on_close: c_int,
}

/// `vmon_child`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Child {
    pub size: usize,
    pub pid: c_int,
    pub stdin_fd: c_int,
    pub stdout_fd: c_int,
    pub stderr_fd: c_int,
    pub tty_fd: c_int,
    pub host_reaps: c_int,
}

/// `vmon_attach_options`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct AttachOptions {
    pub size: usize,
    pub stream: c_int,
    pub read_only: c_int,
    pub tail: u64,
    pub console: *const c_char,
}

/// `vmon_end`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CEnd {
    pub size: usize,
    pub exit_code: c_int,
    pub signal: c_int,
    pub reason: c_int,
    pub start_errno: c_int,
    pub bytes_logged: u64,
    pub bytes_dropped: u64,
    pub error: *const c_char,
}

/// `vmon_event`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CEvent {
    pub size: usize,
    pub id: u64,
    pub kind: c_int,
    pub pid: c_int,
    pub time_us: i64,
    pub missed: u64,
    pub name: *const c_char,
    pub config_file: *const c_char,
    pub end: *const CEnd,
}

// SAFETY: repr(C), begins with its size, and consists of integers and pointers, for which zeros
// are a value.
unsafe impl Growing for Options {
    const FIRST: usize = mem::size_of::<Self>();
    const DEFAULT: Self =
        Self { size: Self::FIRST, state_dir: ptr::null(), database: ptr::null(), on_close: 0 };
}

// SAFETY: as above.
unsafe impl Growing for Child {
    const FIRST: usize = mem::size_of::<Self>();
    const DEFAULT: Self = Self {
        size: Self::FIRST,
        pid: 0,
        stdin_fd: -1,
        stdout_fd: -1,
        stderr_fd: -1,
        tty_fd: -1,
        host_reaps: 0,
    };
}

// SAFETY: as above.
unsafe impl Growing for AttachOptions {
    const FIRST: usize = mem::size_of::<Self>();
    const DEFAULT: Self =
        Self { size: Self::FIRST, stream: 0, read_only: 0, tail: 0, console: ptr::null() };
}

// SAFETY: as above.
unsafe impl Growing for CEnd {
    const FIRST: usize = mem::size_of::<Self>();
    const DEFAULT: Self = Self {
        size: mem::size_of::<Self>(),
        exit_code: 0,
        signal: 0,
        reason: 0,
        start_errno: 0,
        bytes_logged: 0,
        bytes_dropped: 0,
        error: ptr::null(),
    };
}

// SAFETY: as above.
unsafe impl Growing for CEvent {
    const FIRST: usize = mem::size_of::<Self>();
    const DEFAULT: Self = Self {
        size: mem::size_of::<Self>(),
        id: 0,
        kind: 0,
        pid: 0,
        time_us: 0,
        missed: 0,
        name: ptr::null(),
        config_file: ptr::null(),
        end: ptr::null(),
    };
}

/// An end for the caller, and its message. `CEnd` points to that.
pub struct GivenEnd {
    end: CEnd,
    _error: Option<CString>,
}

impl GivenEnd {
    pub fn new(end: &End) -> Self {
        let error = end.error();
        let text = error.map(|error| c_string(error.to_string()));
        let given = CEnd {
            exit_code: end.exit_code().into(),
            signal: end.signal().map_or(0, |signal| signal.number()),
            reason: reason(end.reason()),
            start_errno: error.map_or(0, |error| errno_of(error)),
            bytes_logged: end.bytes_logged,
            bytes_dropped: end.bytes_dropped,
            error: text.as_ref().map_or(ptr::null(), |text| text.as_ptr()),
            ..CEnd::DEFAULT
        };
        Self { end: given, _error: text }
    }

    /// Its pointer is valid as long as this exists.
    pub fn get(&self) -> CEnd {
        self.end
    }
}

/// An event for the caller, and what it points to.
pub struct GivenEvent {
    event: CEvent,
    _names: [CString; 2],
    _end: Option<Box<GivenEnd>>,
}

impl GivenEvent {
    pub fn new(event: &SandboxEvent, missed: u64) -> Self {
        let names = [&event.name, &event.config_file].map(|name| c_string(name.as_str()));
        let (kind, at, pid, end) = match &event.event {
            Event::Transition(Transition::Running { at, child }) => (1, Some(at), child.pid, None),
            Event::Transition(Transition::Stopping { at }) => (2, Some(at), 0, None),
            Event::Transition(Transition::Draining { at, .. }) => (3, Some(at), 0, None),
            Event::Transition(Transition::Restarting { at, end, .. }) => {
                (4, Some(at), 0, Some(end))
            }
            Event::Transition(Transition::Stopped { at, end }) => (5, Some(at), 0, Some(end)),
            Event::Done => (6, None, 0, None),
            // Later ones are given without a meaning.
            _ => (0, None, 0, None),
        };
        let end = end.map(|end| Box::new(GivenEnd::new(end)));
        let [name, config_file] = &names;
        let event = CEvent {
            id: event.id.to_bits(),
            kind,
            pid: pid.try_into().unwrap_or(0),
            time_us: at.map_or(0, |at| at.timestamp_micros()),
            missed,
            name: name.as_ptr(),
            config_file: config_file.as_ptr(),
            end: end.as_ref().map_or(ptr::null(), |end| &raw const end.end),
            ..CEvent::DEFAULT
        };
        Self { event, _names: names, _end: end }
    }

    /// Its pointers are valid as long as this exists.
    pub fn get(&self) -> CEvent {
        self.event
    }
}

fn reason(reason: Reason) -> c_int {
    match reason {
        Reason::Exited => 1,
        Reason::Signalled => 2,
        Reason::Stopped => 3,
        Reason::Killed => 4,
        Reason::MaxDuration => 5,
        Reason::IdleTimeout => 6,
        Reason::OutOfMemory => 7,
        Reason::SupervisorPanicked => 8,
        Reason::StartFailed => 9,
        Reason::SupervisorLost => 10,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
