//! The name that programs look the shared library up by. It has the part of the version that changes
//! with the ABI: the major number, and before 1.0 the minor one too. capi/install.sh has the same rule.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let family = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if matches!(&*family, "linux" | "android" | "freebsd" | "netbsd" | "openbsd") {
        let part = |name: &str| std::env::var(name).unwrap_or_default();
        let (major, minor) = (part("CARGO_PKG_VERSION_MAJOR"), part("CARGO_PKG_VERSION_MINOR"));
        let abi = if major == "0" { format!("0.{minor}") } else { major };
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libvmon.so.{abi}");
    }
}
