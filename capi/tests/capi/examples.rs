//! The examples of this package, and the file for pkg-config.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::common::{Installed, cc, is_there, package, succeed};

#[test]
fn the_example_with_a_poll_loop_runs() {
    if !cc() {
        return;
    }
    let installed = Installed::new();
    let mut poll = Command::new(installed.compile("examples/poll.c"))
        .arg(installed.file("state"))
        .args(["sh", "-c", "read x; exit $x"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    poll.stdin.take().unwrap().write_all(b"7\n").unwrap();
    let output = poll.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(7), "{printed}");
    assert!(printed.starts_with("poll runs with the pid "), "{printed}");
    assert!(printed.ends_with("poll has ended with the code 7\n"), "{printed}");
}

#[test]
fn the_program_of_the_manual_runs() {
    if !cc() {
        return;
    }
    let installed = Installed::new();
    let page = fs::read_to_string(package("../docs/c.md")).unwrap();
    let program = page.split("```c\n").nth(1).unwrap().split("```").next().unwrap();
    let state = installed.file("state");
    let program = program.replace("/var/lib/host", state.to_str().unwrap());
    let source = installed.file("manual.c");
    fs::write(&source, program).unwrap();
    let output = succeed(&mut Command::new(installed.compile(source)));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "exit code 7, 6 bytes logged\n");
}

#[test]
fn the_example_in_python_runs() {
    if !is_there("python3", "VMON_REQUIRE_PYTHON") {
        return;
    }
    let installed = Installed::new();
    let mut python = Command::new("python3");
    python.arg(package("examples/host.py")).arg(installed.file("state"));
    let output = succeed(python.env("LD_LIBRARY_PATH", installed.path("lib")));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "started: 7 6\nadopted: 9 6\n");
}

#[test]
fn pkg_config_finds_the_library() {
    let installed = Installed::new();
    let file = fs::read_to_string(installed.path("lib/pkgconfig/vmon.pc")).unwrap();
    assert!(!file.contains('@'), "{file}");
    if !is_there("pkg-config", "VMON_REQUIRE_CC") {
        return;
    }
    let mut query = Command::new("pkg-config");
    query.env("PKG_CONFIG_PATH", installed.path("lib/pkgconfig"));
    let output = succeed(query.args(["--cflags", "--libs", "vmon"]));
    let flags = String::from_utf8(output.stdout).unwrap();
    let prefix = installed.path("");
    let prefix = prefix.to_str().unwrap().trim_end_matches('/');
    for flag in [format!("-I{prefix}/include"), format!("-L{prefix}/lib"), "-lvmon".to_owned()] {
        assert!(flags.split_whitespace().any(|it| it == flag), "{flags}");
    }
}
