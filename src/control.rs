//! The control socket of a monitored child: the varlink interface `io.vmon.Monitor` on a Unix
//! stream socket, described in [`INTERFACE_DESCRIPTION`].
//!
//! A [`Server`] is served as a [`Service`](crate::monitor::Service) of a monitor: it runs on the
//! reactor's thread, and without a client it costs one descriptor. A [`Client`] is for programs that may
//! block: it starts no thread, and every call has a timeout.
//!
//! ```
//! use vmon::child::Command;
//! use vmon::control::Server;
//! use vmon::monitor::{Monitor, Sandbox};
//! use vmon::reactor::Reactor;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let state = directory.path();
//! let mut reactor = Reactor::new()?;
//! let sandbox = Sandbox::new("web", state.join("log"))?;
//! // At STATE/run/Sandboxfile/web.sock, from the start to the end.
//! let id = Monitor::builder(sandbox)
//!     .control_socket(Server::new(state.join("run")))?
//!     .spawn(&mut reactor, Command::new("echo").args(["hello"]));
//! reactor.run()?;
//! # assert!(reactor.remove(id).and_then(Monitor::into_end).is_some());
//! # Ok(())
//! # }
//! ```

mod call;
mod client;
mod error;
#[cfg(test)]
mod fuzzed;
mod place;
mod server;
mod stream;
mod value;
mod view;

pub use client::{Client, ClientError, DEFAULT_TIMEOUT, Watch};
#[cfg(all(feature = "host", feature = "codec"))]
#[cfg_attr(docsrs, doc(cfg(all(feature = "host", feature = "codec"))))]
pub use client::{HostClient, HostStartError, StartedByHost};
pub use error::ControlError;
pub use place::runtime_directory;
#[cfg(all(feature = "host", feature = "codec"))]
pub(crate) use server::host;
#[cfg(all(feature = "host", feature = "codec"))]
#[cfg_attr(docsrs, doc(cfg(all(feature = "host", feature = "codec"))))]
pub use server::host::{HostServer, Start};
pub use server::{DEFAULT_CLIENT_TIMEOUT, Server};
pub use view::{ConsoleStatus, Ended, Status, WatchEvent};

/// The interface of [`Server`] and [`Client`], in varlink's interface definition language.
pub const INTERFACE_DESCRIPTION: &str = include_str!("../docs/io.vmon.Monitor.varlink");

/// The interface of a [`HostServer`], in varlink's interface definition language.
#[cfg(all(feature = "host", feature = "codec"))]
#[cfg_attr(docsrs, doc(cfg(all(feature = "host", feature = "codec"))))]
pub const HOST_INTERFACE_DESCRIPTION: &str = include_str!("../docs/io.vmon.Host.varlink");

/// The maximum size of a message in bytes, including the NUL at its end.
pub const MAX_MESSAGE: usize = 1 << 20;
