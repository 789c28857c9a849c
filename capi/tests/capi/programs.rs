//! The program that uses every function: as it is, with the static library, and under valgrind.

use std::fs;
use std::process::Command;

use crate::common::{Installed, cc, is_there, succeed};

const EVERY: &str = "tests/c/every.c";

#[test]
fn a_c_program_uses_every_function() {
    if !cc() {
        return;
    }
    let installed = Installed::new();
    run(&installed, Command::new(installed.compile(EVERY)), &[]);
}

#[test]
fn a_c_program_links_the_static_library() {
    if !cc() {
        return;
    }
    let installed = Installed::new();
    run(&installed, Command::new(installed.compile_static(EVERY)), &[]);
}

#[test]
fn valgrind_finds_no_leak_and_no_error() {
    if !cc() || !is_there("valgrind", "VMON_REQUIRE_VALGRIND") {
        return;
    }
    let installed = Installed::new();
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--error-exitcode=99", "--leak-check=full", "--num-callers=40"]);
    // Memory that std keeps for the main thread is reached by a pointer into it: possibly lost.
    valgrind
        .args(["--show-leak-kinds=definite,indirect", "--errors-for-leak-kinds=definite,indirect"]);
    valgrind.arg(installed.compile(EVERY));
    run(&installed, valgrind, &["valgrind"]);
}

fn run(installed: &Installed, mut program: Command, arguments: &[&str]) {
    let directory = installed.file("work");
    fs::create_dir(&directory).unwrap();
    let output = succeed(program.arg(directory).args(arguments));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "every function was used\n");
}
