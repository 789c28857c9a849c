//! A sandbox with a control socket, in a host of its own thread.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vmon::child::Command;
use vmon::control::{Client, DEFAULT_CLIENT_TIMEOUT, Server};
use vmon::monitor::{End, Monitor, Sandbox};
use vmon::reactor::Reactor;

use crate::common::{CONFIG, State, TIMEOUT, eventually};

/// Where the socket of this sandbox lies.
pub fn socket_of(state: &State, name: &str) -> PathBuf {
    state.path().join("run").join(CONFIG).join(format!("{name}.sock"))
}

/// Runs `sh -c SCRIPT` as the sandbox `name` to its end.
pub fn run(
    state: &Path,
    name: &str,
    script: &str,
    pty: bool,
    describe: impl FnOnce(Sandbox) -> Sandbox,
) -> End {
    run_with_timeout(state, name, script, pty, DEFAULT_CLIENT_TIMEOUT, describe)
}

/// The same with this limit for its clients.
pub fn run_with_timeout(
    state: &Path,
    name: &str,
    script: &str,
    pty: bool,
    timeout: Duration,
    describe: impl FnOnce(Sandbox) -> Sandbox,
) -> End {
    let sandbox = describe(Sandbox::new(name, state.join("log")).unwrap());
    let server = Server::new(state.join("run")).client_timeout(timeout);
    let mut reactor = Reactor::new().unwrap();
    let id = Monitor::builder(sandbox)
        .control_socket(server)
        .unwrap()
        .spawn(&mut reactor, Command::new("sh").args(["-c", script]).pty(pty));
    reactor.run().unwrap();
    reactor.remove(id).unwrap().into_end().unwrap()
}

/// One that runs beside the test.
pub struct Served {
    pub state: State,
    pub path: PathBuf,
    host: JoinHandle<End>,
}

impl Served {
    pub fn start(script: &str) -> Self {
        Self::with(script, false, |sandbox| sandbox)
    }

    pub fn with(
        script: &str,
        pty: bool,
        describe: impl FnOnce(Sandbox) -> Sandbox + Send + 'static,
    ) -> Self {
        Self::with_timeout(script, pty, DEFAULT_CLIENT_TIMEOUT, describe)
    }

    pub fn with_timeout(
        script: &str,
        pty: bool,
        timeout: Duration,
        describe: impl FnOnce(Sandbox) -> Sandbox + Send + 'static,
    ) -> Self {
        let state = State::new();
        let path = socket_of(&state, "a");
        let (directory, script) = (state.path().to_owned(), script.to_owned());
        let host = thread::spawn(move || {
            run_with_timeout(&directory, "a", &script, pty, timeout, describe)
        });
        eventually("the socket is there", || path.exists());
        Self { state, path, host }
    }

    /// A client, once the child runs.
    pub fn client(&self) -> Client {
        let mut client = Client::connect(&self.path).unwrap().timeout(TIMEOUT);
        eventually("the child runs", || client.status().unwrap().child.is_some());
        client
    }

    pub fn raw(&self) -> Raw {
        Raw::connect(&self.path)
    }

    /// Has it stopped, and waits for its end.
    pub fn stop(self) -> (End, State) {
        self.client().stop(None).unwrap();
        self.end()
    }

    pub fn end(self) -> (End, State) {
        (self.host.join().unwrap(), self.state)
    }
}

/// A client that sends arbitrary bytes.
pub struct Raw(BufReader<UnixStream>);

impl Raw {
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Self(BufReader::new(stream))
    }

    /// `None` if nothing listens there.
    pub fn try_connect(path: &Path) -> Option<UnixStream> {
        UnixStream::connect(path).ok()
    }

    pub fn stream(&mut self) -> &mut UnixStream {
        self.0.get_mut()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream().write_all(bytes.as_ref()).unwrap();
    }

    /// The next message, as JSON; `None` when the connection is closed.
    pub fn next(&mut self) -> Option<serde_json::Value> {
        let mut message = Vec::new();
        match self.0.read_until(0, &mut message) {
            Ok(0) => None,
            Ok(_) => {
                assert_eq!(message.pop(), Some(0));
                Some(serde_json::from_slice(&message).unwrap())
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Sends a call and gives the answer.
    pub fn ask(&mut self, call: impl AsRef<[u8]>) -> serde_json::Value {
        self.send(call);
        self.send(b"\0");
        self.next().unwrap()
    }

    /// The name of the error that comes next, and whether the connection is closed after it.
    pub fn error_name(&mut self) -> String {
        let answer = self.next().unwrap();
        answer["error"].as_str().unwrap().to_owned()
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }
}
