//! The ABI: what `capi/abi.txt` has, which changes by additions only.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::process::Command;

use crate::common::{Installed, cc, is_there, package, printed, strict, succeed};
use crate::header::{name, prototypes};

#[test]
fn the_abi_is_the_one_on_file() {
    if !cc() || cfg!(not(target_pointer_width = "64")) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("abi");
    let source = package("tests/c/abi.c");
    succeed(Command::new("cc").args(strict("c99")).arg("-o").arg(&program).arg(source));
    let mut abi = String::from("functions\n");
    for prototype in prototypes() {
        writeln!(abi, "  {prototype}").unwrap();
    }
    abi.push_str(&printed::<&str>(&program, &[]));
    let file = package("abi.txt");
    if std::env::var_os("VMON_WRITE_ABI").is_some() {
        fs::write(&file, &abi).unwrap();
    }
    let on_file = fs::read_to_string(file).unwrap();
    assert!(abi == on_file, "capi/abi.txt is not this; VMON_WRITE_ABI=1 writes it:\n{abi}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_library_exports_its_functions_alone() {
    if !is_there("nm", "VMON_REQUIRE_CC") {
        return;
    }
    let installed = Installed::new();
    let library = installed.path("lib/libvmon.so");
    let library = library.to_str().unwrap();
    let listed = printed("nm".as_ref(), &["-D", "--defined-only", "--format=posix", library]);
    let exported: BTreeSet<&str> =
        listed.lines().filter_map(|line| line.split(' ').next()).collect();
    let prototypes = prototypes();
    let declared: BTreeSet<&str> = prototypes.iter().map(|it| name(it)).collect();
    assert_eq!(exported, declared);
    let dynamic = printed("readelf".as_ref(), &["-d", library]);
    assert!(dynamic.contains("[libvmon.so.0.1]"), "{dynamic}");
}
