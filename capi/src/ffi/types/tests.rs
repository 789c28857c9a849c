use std::mem::offset_of;

use super::*;
use crate::failure::Code;

/// The layout of structs as `capi/abi.txt` has it.
macro_rules! layout {
    ($($name:literal $type:ident { $($member:literal $field:ident),* })*) => {
        [$(
            format!("struct {} {}\n", $name, size_of::<$type>()),
            $(format!("  {} {}\n", offset_of!($type, $field), $member)),*
        ),*].concat()
    };
}

#[test]
fn structs_are_those_of_the_header() {
    let layout = layout! {
        "vmon_options" Options {
            "size" size, "state_dir" state_dir, "database" database, "on_close" on_close
        }
        "vmon_child" Child {
            "size" size, "pid" pid, "stdin_fd" stdin_fd, "stdout_fd" stdout_fd,
            "stderr_fd" stderr_fd, "tty_fd" tty_fd, "host_reaps" host_reaps
        }
        "vmon_attach_options" AttachOptions {
            "size" size, "stream" stream, "read_only" read_only, "tail" tail, "console" console
        }
        "vmon_end" CEnd {
            "size" size, "exit_code" exit_code, "signal" signal, "reason" reason,
            "start_errno" start_errno, "bytes_logged" bytes_logged, "bytes_dropped" bytes_dropped,
            "error" error
        }
        "vmon_event" CEvent {
            "size" size, "id" id, "type" kind, "pid" pid, "time_us" time_us, "missed" missed,
            "name" name, "config_file" config_file, "end" end
        }
    };
    if cfg!(target_pointer_width = "64") {
        let abi = include_str!("../../../abi.txt");
        assert!(abi.contains(&layout), "{layout}");
    }
}

#[test]
fn codes_are_those_of_the_header() {
    let codes = [
        ("VMON_EINVAL", Code::Invalid),
        ("VMON_EMISUSE", Code::Misuse),
        ("VMON_EBUSY", Code::Busy),
        ("VMON_EAGAIN", Code::Again),
        ("VMON_ENOENT", Code::NoEntry),
        ("VMON_ENOTRUNNING", Code::NotRunning),
        ("VMON_ENOTTY", Code::NoTerminal),
        ("VMON_EATTACH", Code::Attach),
        ("VMON_ECHILD", Code::NoChild),
        ("VMON_ERECORD", Code::Record),
        ("VMON_ESYSTEM", Code::System),
        ("VMON_ENOTSUP", Code::Unsupported),
        ("VMON_EENDED", Code::Ended),
        ("VMON_EPANIC", Code::Panic),
        ("VMON_ENOINPUT", Code::NoInput),
    ];
    assert_eq!(codes.map(|(_, code)| code), Code::ALL);
    let abi = include_str!("../../../abi.txt");
    for (name, code) in codes {
        assert!(abi.contains(&format!("\n  {name} {}\n", code as c_int)), "{name}");
    }
}
