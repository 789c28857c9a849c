//! A handle of a host: what the functions of `vmon.h` do, in safe code.

use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use vmon::child::{ChildIo, ExitStatus, Signal};
use vmon::control::Server;
use vmon::host::SandboxEvent;
use vmon::monitor::{Attach, Builder, End, Monitor, Sandbox, SandboxId};
use vmon::registry::Registry;
use vmon::terminal::WindowSize;

use crate::driver::Driver;
use crate::ends::Ends;
use crate::events::Events;
use crate::failure::{Code, Failure};
use crate::json;
use crate::spec::Description;

/// A handle.
pub struct Host {
    driver: Driver,
    place: Place,
    ends: Arc<Ends>,
    events: Events,
}

/// Where sandboxes are recorded and served.
#[derive(Clone, Default)]
pub struct Place {
    state_dir: Option<PathBuf>,
    registry: Option<Registry>,
}

impl Place {
    /// Makes the state directory and opens the database.
    pub fn open(state_dir: Option<&Path>, database: Option<&Path>) -> Result<Self, Failure> {
        let state_dir = match state_dir {
            Some(path) => Some(std::path::absolute(path).map_err(|error| {
                Failure::system(&format!("find the state directory {}", path.display()), &error)
            })?),
            None => None,
        };
        let in_state = state_dir.as_ref().map(|state| state.join("sandbox.db"));
        let registry = match database.map(Path::to_owned).or(in_state) {
            Some(database) => {
                let opened = Registry::open(database);
                let registry = opened.map_err(|error| Failure::of(Code::Record, &error))?;
                let registry = registry.keep_connection();
                Some(match &state_dir {
                    Some(state_dir) => registry.state_dir(state_dir),
                    None => registry,
                })
            }
            None => None,
        };
        Ok(Self { state_dir, registry })
    }

    fn builder(&self, mut sandbox: Sandbox) -> Result<Builder, Failure> {
        if sandbox.log_dir.as_os_str().is_empty() {
            let state_dir = self.state_dir.as_ref().ok_or_else(|| {
                Failure::invalid("the description has no log directory: call vmon_spec_log_dir")
            })?;
            sandbox.log_dir = state_dir.join("log");
        }
        let mut builder = Monitor::builder(sandbox);
        if let Some(registry) = &self.registry {
            builder = builder.observer(registry.observer());
        }
        if let Some(state_dir) = &self.state_dir {
            let server = Server::new(state_dir.join("run"));
            builder = builder
                .control_socket(server)
                .map_err(|error| Failure::of(Code::Invalid, &error))?;
        }
        Ok(builder)
    }
}

/// A child of the caller's.
pub struct Adopted {
    pub pid: u32,
    pub io: ChildIo,
    pub host_reaps: bool,
}

impl Host {
    pub fn new(driver: Driver, place: Place) -> Self {
        Self { driver, place, ends: Arc::default(), events: Events::default() }
    }

    /// A host that could not be opened.
    pub fn not_opened() -> Self {
        Self::new(Driver::Ended, Place::default())
    }

    /// A further handle.
    pub fn another(&self) -> Result<Self, Failure> {
        let (place, ends) = (self.place.clone(), self.ends.clone());
        Ok(Self { driver: self.driver.another()?, place, ends, events: Events::Off })
    }

    /// Ends the host, for all handles.
    pub fn end(&mut self) -> Result<(), Failure> {
        self.events = Events::Off;
        self.driver.end()
    }

    /// The handle is freed. Without another one, the host ends.
    pub fn free(&mut self) {
        self.events = Events::Off;
        if self.driver.is_callers() {
            // There is no handle left to report it to.
            let _ = self.driver.end();
        }
    }

    /// Ends a host after a panic.
    pub fn abandon(&mut self) {
        self.driver.abandon();
    }

    pub fn descriptor(&mut self) -> Result<RawFd, Failure> {
        self.driver.descriptor()
    }

    /// In milliseconds, -1 for never.
    pub fn timeout(&mut self) -> Result<i32, Failure> {
        let Some(timeout) = self.driver.timeout()? else { return Ok(-1) };
        // Rounded up: a turn a moment too early would find nothing to do.
        let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
        Ok(milliseconds.try_into().unwrap_or(i32::MAX))
    }

    pub fn turn(&mut self, timeout: Option<Duration>) -> Result<(), Failure> {
        self.driver.turn(timeout)
    }

    pub fn start(&mut self, spec: &Description) -> Result<SandboxId, Failure> {
        let (sandbox, command) = spec.parts()?;
        let command = command.ok_or_else(|| {
            Failure::invalid("the description has no command: call vmon_spec_command")
        })?;
        let leave = self.driver.leaves_children();
        let command = if leave { command.parent_death(false) } else { command };
        let builder = self.place.builder(sandbox)?;
        let (id, end) = self.driver.call(move |engine| {
            let id = engine.start(builder, command);
            (id, engine.wait(id))
        })?;
        self.ends.keep(id, end);
        Ok(id)
    }

    pub fn adopt(&mut self, spec: &Description, child: Adopted) -> Result<SandboxId, Failure> {
        let (sandbox, _) = spec.parts()?;
        let mut builder = self.place.builder(sandbox)?;
        if child.host_reaps {
            builder = builder.host_reaps();
        }
        let (id, end) = self.driver.call(move |engine| {
            let id = engine.adopt(builder, child.pid, child.io);
            id.map(|id| (id, engine.wait(id))).map_err(|error| Failure::of(Code::NoChild, &error))
        })??;
        self.ends.keep(id, end);
        Ok(id)
    }

    pub fn reaped(&mut self, id: SandboxId, pid: u32, status: ExitStatus) -> Result<(), Failure> {
        self.driver.call(move |engine| engine.reaped(id, pid, status))
    }

    pub fn stop(&mut self, id: SandboxId, timeout: Option<Duration>) -> Result<(), Failure> {
        Ok(self.driver.call(move |engine| engine.stop(id, timeout))??)
    }

    pub fn signal(&mut self, id: SandboxId, signal: Signal) -> Result<(), Failure> {
        Ok(self.driver.call(move |engine| engine.signal(id, signal))??)
    }

    /// Returns the caller's end of a connection.
    pub fn attach(&mut self, id: SandboxId, request: Attach) -> Result<OwnedFd, Failure> {
        let (ours, theirs) =
            UnixStream::pair().map_err(|error| Failure::system("make a socket", &error))?;
        self.driver.call(move |engine| engine.attach(id, ours, &request))??;
        Ok(theirs.into())
    }

    pub fn resize(&mut self, id: SandboxId, size: WindowSize) -> Result<(), Failure> {
        Ok(self.driver.call(move |engine| engine.resize(id, size))??)
    }

    pub fn send(&mut self, id: SandboxId, bytes: Vec<u8>) -> Result<(), Failure> {
        Ok(self.driver.call(move |engine| engine.send(id, &bytes))??)
    }

    pub fn reopen_log(&mut self, id: SandboxId) -> Result<(), Failure> {
        Ok(self.driver.call(move |engine| engine.reopen_log(id))??)
    }

    pub fn list(&mut self) -> Result<Value, Failure> {
        Ok(json::list(&self.driver.call(|engine| engine.list())?))
    }

    pub fn report(&mut self, id: SandboxId) -> Result<Value, Failure> {
        let report = self.driver.call(move |engine| engine.report(id))??;
        Ok(json::report(id, &report))
    }

    pub fn wait(&mut self, id: SandboxId, timeout: Option<Duration>) -> Result<Arc<End>, Failure> {
        self.ends.take(id, self.checked(timeout)?)
    }

    pub fn forget(&mut self, id: SandboxId) -> Result<(), Failure> {
        self.ends.forget(id)
    }

    pub fn subscribe(&mut self, limit: u32) -> Result<(), Failure> {
        self.events = Events::subscribe(&mut self.driver, &self.events, limit as usize)?;
        Ok(())
    }

    pub fn next_event(
        &mut self,
        timeout: Option<Duration>,
    ) -> Result<(SandboxEvent, u64), Failure> {
        let timeout = self.checked(timeout)?;
        self.events.next(&mut self.driver, timeout)
    }

    /// On the caller's loop nothing happens while a call waits.
    fn checked(&self, timeout: Option<Duration>) -> Result<Option<Duration>, Failure> {
        if self.driver.is_callers() && timeout != Some(Duration::ZERO) {
            let message = "waiting would stop the loop: give 0 as the timeout, and call vmon_turn";
            return Err(Failure::misuse(message));
        }
        Ok(timeout)
    }
}
