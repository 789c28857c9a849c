//! A low-overhead monitor for one microVM (or any other child process), and for many of them on
//! one thread.
//!
//! A [`Reactor`](reactor::Reactor) multiplexes the children's pipes or PTY masters, our stdin,
//! signals and timers. A [`Monitor`](monitor::Monitor) writes its child's bytes to a rotating
//! [log](logfile) and on to our terminal, untouched, and tells each lifecycle transition to its
//! [`Observer`](monitor::Observer)s, of which the SQLite `registry` is one.
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
//! let sandbox = Sandbox::new("web", "Sandboxfile", state.join("log"))?
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
//! The library starts no thread and installs no signal handler unless a host asks for it.
//!
//! # Features
//!
//! | feature | default | adds |
//! | --- | --- | --- |
//! | `registry` | yes | the record in SQLite |
//! | `bundled` | yes | SQLite compiled in; without it the system's SQLite is linked |
//! | `codec` | by `registry` | the JSON form of a sandbox and its command |
//! | `consoles` | no | guest consoles beside the child's own streams |
//! | `control` | no | the control socket of a monitor, and its client |
//! | `reader` | no | reading logs back, compressed generations too |
//!
//! Each feature works alone and with any other.

mod access;
pub mod child;
#[cfg(feature = "control")]
pub mod control;
pub mod logfile;
pub mod monitor;
pub mod process;
pub mod reactor;
#[cfg(feature = "registry")]
pub mod registry;
mod relay;
#[cfg(any(feature = "consoles", feature = "control", feature = "registry"))]
mod socket;
pub mod terminal;
pub mod usage;
pub mod values;

/// The Rust code of the README and of the manual, compiled as documentation tests.
#[cfg(all(doctest, feature = "registry"))]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../docs/embedding.md")]
struct Manual;
