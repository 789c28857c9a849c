//! A sandbox on a reactor of the test's own, and clients that are attached to it.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vmon::child::Command;
use vmon::monitor::{
    Attach, AttachError, AttachTo, Attached, Builder, ConsoleReport, ConsoleState, End, Monitor,
    Sandbox,
};
use vmon::reactor::{HandlerId, Reactor};

use crate::common::turning::start_added;
use crate::common::{State, TIMEOUT, contains};

/// The sandbox `a`.
pub struct Host {
    pub state: State,
    pub reactor: Reactor<Monitor>,
    pub id: HandlerId,
}

impl Host {
    pub fn new(
        state: State,
        command: &[String],
        describe: impl FnOnce(Sandbox) -> Sandbox,
        build: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let sandbox = Sandbox::new("a", state.path().join("log")).unwrap();
        let mut reactor = Reactor::new().unwrap();
        let command = Command::new(&command[0]).args(&command[1..]);
        let builder = build(Monitor::builder(describe(sandbox)));
        let id = builder.spawn(&mut reactor, command);
        start_added(&mut reactor);
        Self { state, reactor, id }
    }

    #[track_caller]
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let give_up = Instant::now() + TIMEOUT;
        while !holds(self) {
            assert!(Instant::now() < give_up, "it never came: {what}; {:?}", self.consoles());
            self.reactor.poll_once(Some(Duration::from_millis(5))).unwrap();
        }
    }

    pub fn monitor(&self) -> &Monitor {
        self.reactor.get(self.id).unwrap()
    }

    pub fn consoles(&self) -> Vec<ConsoleReport> {
        self.monitor().report().consoles
    }

    pub fn console(&self, name: &str) -> ConsoleReport {
        let mut consoles = self.consoles().into_iter();
        consoles.find(|console| console.name.as_str() == name).unwrap()
    }

    #[track_caller]
    pub fn until_open(&mut self, name: &str, times: u32) {
        self.until(&format!("{name} is open"), |host| {
            let console = host.console(name);
            console.state == ConsoleState::Open && console.opened == times
        });
    }

    pub fn try_attach(
        &mut self,
        console: Option<&str>,
        tail: u64,
    ) -> Result<(Client, Attached), AttachError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let to = console.map(|name| AttachTo::Console(name.parse().unwrap()));
        let request = Attach::default().to(to).tail(tail);
        let attached = self
            .reactor
            .call(self.id, |it, cx| it.attach(ours, &request, |_| Vec::new(), cx))
            .unwrap()
            .map_err(|(error, _)| error)?;
        Ok((Client { stream: theirs, seen: Vec::new(), ended: false }, attached))
    }

    #[track_caller]
    pub fn attach(&mut self, console: &str, tail: u64) -> Client {
        self.try_attach(Some(console), tail).unwrap().0
    }

    #[track_caller]
    pub fn until_seen(&mut self, client: &mut Client, bytes: &str) {
        self.until(&format!("the client sees {bytes:?}"), |_| {
            client.read();
            contains(&client.seen, bytes.as_bytes())
        });
    }

    /// Sends a line and waits for what comes of it.
    #[track_caller]
    pub fn ask(&mut self, client: &mut Client, line: &str, answer: &str) {
        client.send(format!("{line}\n").as_bytes());
        self.until_seen(client, answer);
    }

    #[track_caller]
    pub fn end(mut self) -> (End, State) {
        use vmon::reactor::Handler;
        self.until("the end", |host| host.monitor().is_done());
        (self.reactor.remove(self.id).unwrap().into_end().unwrap(), self.state)
    }
}

pub struct Client {
    pub stream: UnixStream,
    pub seen: Vec<u8>,
    pub ended: bool,
}

impl Client {
    /// Takes what is there.
    pub fn read(&mut self) {
        let mut buffer = [0; 65536];
        while !self.ended {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(count) => self.seen.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }
}
