//! A run that is paused while a test changes the database, and what is on record afterwards.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::common::{State, TIMEOUT, code, wait};

/// Keeps every other writer out until it is dropped.
pub fn lock(state: &State) -> Connection {
    let lock = Connection::open(state.db()).unwrap();
    lock.busy_timeout(TIMEOUT).unwrap();
    lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
    lock
}

/// Looks without leaving a trace: no checkpoint, no file removed.
pub fn look(state: &State, sql: &str) -> Vec<String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = Connection::open_with_flags(state.db(), flags).unwrap();
    let mut statement = db.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

pub const ENDS: &str = "SELECT s.name || ' ' || s.status || ' ' || r.state || ' ' ||
    ifnull(r.exit_code, '-') || ' ' || ifnull(r.signal, '-') || ' ' || ifnull(r.reason, '-')
    FROM vmon_runs r JOIN sandboxes s ON s.id = r.sandbox_id ORDER BY s.name, r.id";

pub fn ps(state: &State, options: &[&str]) -> Vec<Value> {
    let output = state.vmon().args(["ps", "--json"]).args(options).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice::<Value>(&output.stdout).unwrap().as_array().unwrap().clone()
}

/// Name, status and exit code of each.
pub fn brief(runs: &[Value]) -> Vec<String> {
    let brief = |run: &Value| {
        let text = |key: &str| run[key].as_str().unwrap_or("-").to_owned();
        format!("{} {} {} {}", text("name"), text("status"), run["exit_code"], text("reason"))
    };
    let mut runs: Vec<_> = runs.iter().map(brief).collect();
    runs.sort();
    runs
}

pub fn spooled(state: &State) -> Vec<PathBuf> {
    let entries = fs::read_dir(state.file("run")).into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_str().unwrap().ends_with(".end.json")).collect()
}

/// A run that ends with its input, and vmon's messages about it.
pub struct Held {
    pub vmon: Child,
    pub errors: Reader<ChildStderr>,
}

impl Held {
    pub fn spawn(state: &State, name: &str, options: &[&str], then: &str) -> Self {
        let script = format!("echo begun; read x; echo over; {then}");
        let mut command = state.run(name, options, &script);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut vmon = command.spawn().unwrap();
        let errors = Reader::new(vmon.stderr.take().unwrap());
        Self { vmon, errors }
    }

    /// As [`spawn`](Self::spawn), once it is on record as running and the record is closed.
    pub fn running(state: &State, name: &str, options: &[&str], then: &str) -> Self {
        let held = Self::spawn(state, name, options, then);
        state.wait_for_status(name, "RUNNING");
        state.wait_for_closed_db(held.vmon.id());
        held
    }

    /// Lets the child end.
    pub fn release(&mut self) {
        drop(self.vmon.stdin.take());
    }

    #[track_caller]
    pub fn finish(&mut self) -> i32 {
        self.release();
        while self.errors.read_some() {}
        code(wait(&mut self.vmon))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.vmon.kill();
        let _ = self.vmon.wait();
    }
}

/// A pipe's end, with all that has come out of it.
pub struct Reader<R> {
    pipe: R,
    pub seen: Vec<u8>,
    searched: usize,
}

impl<R: Read + AsFd> Reader<R> {
    pub fn new(pipe: R) -> Self {
        Self { pipe, seen: Vec::new(), searched: 0 }
    }

    pub fn read_some(&mut self) -> bool {
        let mut fds = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(TIMEOUT).unwrap();
        if poll(&mut fds, timeout).unwrap_or(0) == 0 {
            return false;
        }
        let mut buffer = [0; 4096];
        let count = self.pipe.read(&mut buffer).unwrap_or(0);
        self.seen.extend_from_slice(&buffer[..count]);
        count > 0
    }

    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        loop {
            let new = &self.seen[self.searched..];
            if let Some(at) = new.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.searched += at + text.len();
                return;
            }
            let more = self.read_some();
            assert!(more, "{text:?} never came: {:?}", String::from_utf8_lossy(&self.seen));
        }
    }
}
