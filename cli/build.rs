//! How the command is linked. The library has no build script.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if packs_relocations() {
        // One bit for each relocation of a position-independent executable in place of 24 bytes.
        println!("cargo::rustc-link-arg-bin=vmon=-Wl,-z,pack-relative-relocs");
    }
}

/// Whether what is built here will be started by a glibc that knows DT_RELR, as it does from 2.36
/// on; an older one refuses the executable. What is built for another machine is for any glibc,
/// and a linker that does not know the option says so and goes on.
fn packs_relocations() -> bool {
    let target = |name| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let is_static = target("FEATURE").split(',').any(|feature| feature == "crt-static");
    let is_native = env::var("HOST").is_ok_and(|host| env::var("TARGET") == Ok(host));
    is_native
        && !is_static
        && (target("OS"), target("ENV")) == ("linux".into(), "gnu".into())
        && glibc().is_some_and(|version| version >= (2, 36))
}

/// The version of this machine's glibc.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let version = str::from_utf8(&output.stdout).ok()?.trim().strip_prefix("glibc ")?;
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}
