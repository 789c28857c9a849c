//! The control socket of a monitored child: varlink over a Unix stream socket, interface
//! `io.vmon.Monitor`, as [`INTERFACE_DESCRIPTION`] describes it.
//!
//! A [`Server`] is a [`Service`](crate::monitor::Service) of a monitor: it lives on the reactor's
//! thread, and while nobody is connected it costs one descriptor. A [`Client`] is for programs
//! that may wait: it starts no thread, and gives up on a supervisor that does not answer.
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
//! let sandbox = Sandbox::new("web", "Sandboxfile", state.join("log"))?;
//! // At STATE/run/Sandboxfile/web.sock, from the start to the end.
//! let server = Server::new(&state.join("run"), &sandbox)?;
//! let id = Monitor::builder(sandbox)
//!     .service(server)
//!     .spawn(&mut reactor, Command::new("echo").args(["hello"]));
//! reactor.run()?;
//! # assert!(reactor.remove(id).and_then(Monitor::into_end).is_some());
//! # Ok(())
//! # }
//! ```

mod call;
mod client;
mod error;
mod place;
mod server;
mod stream;
mod value;
mod view;

pub use client::{Client, ClientError, DEFAULT_TIMEOUT, Watch};
pub use error::ControlError;
pub use place::runtime_directory;
pub use server::{DEFAULT_CLIENT_TIMEOUT, Server};
pub use view::{Console, Ended, Event, Status};

/// The interface that a [`Server`] serves and a [`Client`] speaks, in varlink's own language.
pub const INTERFACE_DESCRIPTION: &str = include_str!("../docs/io.vmon.Monitor.varlink");

/// The longest message, in bytes, its closing NUL included.
pub const MAX_MESSAGE: usize = 1 << 20;
