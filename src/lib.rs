//! Monitors child processes, microVMs above all: one or many, on one thread.
//!
//! A [`Reactor`](reactor::Reactor) multiplexes the children's pipes or PTY masters, the standard
//! input of this process, signals and timers. A [`Monitor`](monitor::Monitor) writes the bytes of
//! its child unchanged to a rotating [log](logfile) and then to the terminal, and reports each
//! lifecycle transition to its [`Observer`](monitor::Observer)s. The SQLite `registry` is one of
//! them.
//!
//! ```
//! use vmon::child::Command;
//! use vmon::monitor::{Forward, Monitor, Rootfs, Sandbox};
//! use vmon::reactor::Reactor;
//! # #[cfg(feature = "registry")]
//! use vmon::registry::Registry;
//!
//! # #[cfg(not(feature = "registry"))]
//! # fn main() {}
//! # #[cfg(feature = "registry")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let state = directory.path();
//! let registry = Registry::open(state.join("sandbox.db"))?;
//! let mut reactor = Reactor::new()?;
//! let sandbox = Sandbox::new("web", state.join("log"))?
//!     .rootfs(Rootfs::Native("/srv/web".into()))
//!     .forward(Forward::Block);
//! let id = Monitor::builder(sandbox)
//!     .observer(registry.observer())
//!     .spawn(&mut reactor, Command::new("echo").args(["hello"]));
//! reactor.run()?;
//! let end = reactor.remove(id).and_then(Monitor::into_end);
//! assert_eq!(end.map(|end| end.exit_code()), Some(0));
//! # Ok(())
//! # }
//! ```
//!
//! The library starts no thread but that of a `host::Host`, and installs signal handlers only if the
//! host requests it.
//!
//! # Features
//!
//! | feature | default | adds |
//! | --- | --- | --- |
//! | `registry` | yes | the `registry` module: a record of sandboxes and runs in SQLite |
//! | `bundled` | yes | SQLite is compiled in; without it, the system's library is linked |
//! | `codec` | by `registry` | the JSON form of a sandbox and its command |
//! | `consoles` | no | guest consoles as further channels beside the child's standard streams |
//! | `control` | no | the `control` module: the control socket of a monitor, and its client |
//! | `host` | no | the `host` module: many sandboxes on a thread of their own, behind a handle for all threads |
//! | `journald` | no | the `journal` module: output of a child in the journal of systemd, on Linux |
//! | `reader` | no | the `logfile::read` module: reading logs back, including compressed generations |
//!
//! Each feature works alone and in any combination.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod access;
pub mod child;
#[cfg(feature = "control")]
#[cfg_attr(docsrs, doc(cfg(feature = "control")))]
pub mod control;
#[cfg(test)]
#[path = "../tests/common/fuzz.rs"]
mod fuzz;
#[cfg(feature = "host")]
#[cfg_attr(docsrs, doc(cfg(feature = "host")))]
pub mod host;
#[cfg(all(feature = "journald", target_os = "linux"))]
#[cfg_attr(docsrs, doc(cfg(all(feature = "journald", target_os = "linux"))))]
pub mod journal;
pub mod logfile;
pub mod monitor;
#[cfg(any(target_os = "linux", target_os = "android"))]
#[cfg_attr(docsrs, doc(cfg(target_os = "linux")))]
pub mod oom;
pub mod process;
pub mod reactor;
#[cfg(feature = "registry")]
#[cfg_attr(docsrs, doc(cfg(feature = "registry")))]
pub mod registry;
mod relay;
#[cfg(any(feature = "consoles", feature = "control", feature = "registry"))]
mod socket;
pub mod terminal;
pub mod timestamp;
pub mod usage;
pub mod values;

/// The Rust code of the README and of the manual, compiled as documentation tests.
#[cfg(all(doctest, feature = "host", feature = "registry"))]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../docs/embedding.md")]
struct Manual;
