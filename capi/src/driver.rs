//! What drives the sandboxes of a host: the caller's loop, or a thread.

use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vmon::child::Signal;
use vmon::host::{Engine, Handle, Host, OnDrop};
use vmon::process::without_sigpipe;

use crate::failure::{Code, Failure};

/// What drives the sandboxes.
pub enum Driver {
    /// The caller's loop.
    Callers(Box<Engine>, OnDrop),
    /// A thread, for any number of handles.
    Thread { handle: Handle, host: Arc<Mutex<Option<Host>>> },
    /// Nothing: it could not be opened, or has ended.
    Ended,
}

impl Driver {
    pub fn on_callers_loop(on_close: OnDrop) -> Result<Self, Failure> {
        let engine = Engine::new().map_err(|error| Failure::system("make a poller", &error))?;
        Ok(Self::Callers(Box::new(engine), on_close))
    }

    pub fn on_thread(on_close: OnDrop) -> Result<Self, Failure> {
        let host = Host::builder().on_drop(on_close).start();
        let host = host.map_err(|error| Failure::system("start a thread", &error))?;
        Ok(Self::Thread { handle: host.handle(), host: Arc::new(Mutex::new(Some(host))) })
    }

    /// For a further handle.
    pub fn another(&self) -> Result<Self, Failure> {
        match self {
            Self::Callers(..) => Err(Failure::misuse(
                "the host is driven by the loop of one thread: open it with vmon_open_thread",
            )),
            Self::Thread { handle, host } => {
                Ok(Self::Thread { handle: handle.clone(), host: host.clone() })
            }
            Self::Ended => Err(ended()),
        }
    }

    /// Whether the caller's loop drives the sandboxes, so that waiting for one would wait for ever.
    pub fn is_callers(&self) -> bool {
        matches!(self, Self::Callers(..))
    }

    /// Whether children that are started are to outlive the thread that the loop is on. A host with a
    /// thread sees to that itself.
    pub fn leaves_children(&self) -> bool {
        matches!(self, Self::Callers(_, OnDrop::Leave))
    }

    /// Calls `f` where the sandboxes are, and waits for its result.
    pub fn call<R: Send + 'static>(
        &mut self,
        f: impl FnOnce(&mut Engine) -> R + Send + 'static,
    ) -> Result<R, Failure> {
        match self {
            // A write to a client that has gone would raise SIGPIPE on the caller's thread.
            Self::Callers(engine, _) => Ok(without_sigpipe(|| f(engine))),
            Self::Thread { handle, .. } => Ok(handle.call(f).wait()?),
            Self::Ended => Err(ended()),
        }
    }

    /// The descriptor that is readable when a turn has something to do.
    pub fn descriptor(&mut self) -> Result<RawFd, Failure> {
        descriptor(self.engine()?)
    }

    /// The time until the next turn must be made; `None` if only the descriptor says so.
    pub fn timeout(&mut self) -> Result<Option<Duration>, Failure> {
        let deadline = self.engine()?.next_deadline();
        Ok(deadline.map(|at| at.saturating_duration_since(Instant::now())))
    }

    pub fn turn(&mut self, timeout: Option<Duration>) -> Result<(), Failure> {
        let engine = self.engine()?;
        let turned = without_sigpipe(|| engine.turn(timeout));
        turned.map_err(|error| Failure::system("poll", &error))
    }

    /// Ends the host, for all handles, and waits for that.
    pub fn end(&mut self) -> Result<(), Failure> {
        match std::mem::replace(self, Self::Ended) {
            Self::Callers(mut engine, on_close) => without_sigpipe(|| {
                let ended = end(&mut engine, on_close);
                drop(engine);
                ended
            }),
            Self::Thread { host, handle } => {
                let host = host.lock().unwrap_or_else(PoisonError::into_inner).take();
                let host = host.ok_or_else(ended)?;
                // A panic of the thread is known only to the handle.
                let state = handle.call(|_| ()).wait();
                drop(host);
                Ok(state?)
            }
            Self::Ended => Ok(()),
        }
    }

    /// Ends a host after a panic: kills what can be killed, and never panics.
    pub fn abandon(&mut self) {
        let Self::Callers(mut engine, _) = std::mem::replace(self, Self::Ended) else { return };
        let caught = |f: &mut dyn FnMut()| drop(catch_unwind(AssertUnwindSafe(f)));
        let mut sandboxes = Vec::new();
        caught(&mut || sandboxes = engine.list());
        for sandbox in sandboxes {
            caught(&mut || drop(engine.signal(sandbox.id, Signal::KILL)));
        }
        let mut engine = Some(engine);
        caught(&mut || without_sigpipe(|| drop(engine.take())));
    }

    fn engine(&mut self) -> Result<&mut Engine, Failure> {
        match self {
            Self::Callers(engine, _) => Ok(engine),
            Self::Thread { .. } => {
                Err(Failure::misuse("the host has a thread of its own, which drives it"))
            }
            Self::Ended => Err(ended()),
        }
    }
}

/// Ends every sandbox of the engine and waits for that.
fn end(engine: &mut Engine, on_close: OnDrop) -> Result<(), Failure> {
    match on_close {
        OnDrop::Leave => return Ok(()),
        OnDrop::Kill => engine.stop_all(Some(Duration::ZERO)),
        _ => engine.stop_all(None),
    }
    while !engine.is_empty() {
        engine.turn(None).map_err(|error| Failure::system("poll", &error))?;
    }
    Ok(())
}

#[cfg(not(mio_unsupported_force_poll_poll))]
fn descriptor(engine: &Engine) -> Result<RawFd, Failure> {
    Ok(std::os::fd::AsRawFd::as_raw_fd(engine))
}

#[cfg(mio_unsupported_force_poll_poll)]
fn descriptor(_: &Engine) -> Result<RawFd, Failure> {
    Err(Failure::new(Code::Unsupported, "polling has no descriptor in this build: call vmon_turn"))
}

fn ended() -> Failure {
    Failure::new(Code::Ended, "the host has ended")
}
