//! Five hundred clients that come and go during a flood: the log, and what each of them got.

use std::io::Read;
use std::path::PathBuf;

use crate::common::{self, State, assert_same, eventually, noise};
use vmon::control::Client;
use vmon::monitor::Attach;

const NAME: &str = "flood";
const SESSIONS: usize = 500;

/// Numbers, one a line, some megabytes a second, without an end.
const SCRIPT: &str =
    "b=0; while :; do seq $((b * 1000 + 1)) $((b * 1000 + 1000)); b=$((b + 1)); done";

/// Where the line of this number begins.
fn offset_of(number: u64) -> u64 {
    let (mut offset, mut first, mut length) = (0, 1, 2);
    while number >= first * 10 {
        offset += (first * 10 - first) * length;
        first *= 10;
        length += 1;
    }
    offset + (number - first) * length
}

/// Where these bytes lie in the stream: what follows the first newline is a number.
fn position(slice: &[u8]) -> Option<u64> {
    let begin = slice.iter().position(|&byte| byte == b'\n')? + 1;
    let length = slice[begin..].iter().position(|&byte| byte == b'\n')?;
    let number = std::str::from_utf8(&slice[begin..begin + length]).unwrap().parse().unwrap();
    Some(offset_of(number) - begin as u64)
}

/// The slices of what a session got, each with the bytes that are missing before it.
fn slices(seen: &[u8]) -> Vec<(u64, &[u8])> {
    const BEGIN: &[u8] = b"\r\n[vmon: ";
    const END: &[u8] = b" bytes left out]\r\n";
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|it| it == what);
    let (mut found, mut missing, mut rest) = (Vec::new(), 0, seen);
    while let Some(at) = find(rest, BEGIN) {
        let Some(end) = find(rest, END) else { break };
        found.push((missing, &rest[..at]));
        missing = std::str::from_utf8(&rest[at + BEGIN.len()..end]).unwrap().parse().unwrap();
        rest = &rest[end + END.len()..];
    }
    found.push((missing, rest));
    found
}

fn socket(state: &State) -> PathBuf {
    state.path().join("run").join(common::CONFIG).join(format!("{NAME}.sock"))
}

/// A sandbox in the background, which goes with the test.
struct Background(PathBuf);

impl Drop for Background {
    fn drop(&mut self) {
        if let Ok(mut client) = Client::connect(&self.0) {
            let _ = client.stop(None);
        }
    }
}

/// Reads until this many bytes have arrived.
fn read_some(stream: &mut impl Read, bytes: usize) -> Vec<u8> {
    let mut seen = Vec::new();
    let mut buffer = [0; 65536];
    while seen.len() < bytes {
        match stream.read(&mut buffer).unwrap() {
            0 => break,
            count => seen.extend_from_slice(&buffer[..count]),
        }
    }
    seen
}

#[test]
fn five_hundred_clients_during_a_flood_lose_no_byte_of_the_log() {
    let state = State::new();
    let options = ["-d", "--log-max-size", "1MiB", "--log-max-files", "100000"];
    let started = state.run(NAME, &options, SCRIPT).output().unwrap();
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let path = socket(&state);
    let _background = Background(path.clone());
    let choices = noise(SESSIONS * 2, 11);
    let mut got = Vec::new();
    // A few at a time: each leaves when the third after it has come.
    let mut open = std::collections::VecDeque::new();
    for choice in choices.chunks_exact(2) {
        let tail = if choice[0] < 128 { u64::from(choice[0]) * 10 } else { 0 };
        let request = Attach::default().tail(tail).read_only(true);
        let (attached, mut stream) = Client::connect(&path).unwrap().attach(&request).unwrap();
        assert!(attached.tail <= tail);
        got.push(read_some(&mut stream, usize::from(choice[1]) * 200));
        open.push_back(stream);
        if open.len() > 3
            && let Some(mut oldest) = open.pop_front()
        {
            got.push(read_some(&mut oldest, 1));
        }
    }
    assert_eq!(got.len(), 2 * SESSIONS - 3);
    drop(open);
    eventually("all have been let go", || {
        Client::connect(&path).unwrap().status().unwrap().sessions.is_empty()
    });
    Client::connect(&path).unwrap().stop(None).unwrap();
    state.wait_for_status(NAME, "STOPPED");

    let log = state.whole_log(NAME);
    let logged: u64 = state.run_column(NAME, "bytes_logged").unwrap().parse().unwrap();
    assert_eq!(log.len() as u64, logged);
    assert_eq!(state.run_column(NAME, "bytes_dropped").as_deref(), Some("0"));
    let mut expected = Vec::with_capacity(log.len() + 20);
    for number in 1_u64.. {
        if expected.len() >= log.len() {
            break;
        }
        expected.extend(format!("{number}\n").bytes());
    }
    // The stop may have cut a line short.
    assert_same(&log, &expected[..log.len()], "the log");
    for (index, seen) in got.iter().enumerate() {
        let mut at = None;
        for (missing, slice) in slices(seen) {
            let Some(begin) = at.map(|at| at + missing).or_else(|| position(slice)) else {
                continue;
            };
            let end = begin + slice.len() as u64;
            let part = &log[begin as usize..end as usize];
            assert_same(slice, part, &format!("what session {index} got"));
            at = Some(end);
        }
    }
}
