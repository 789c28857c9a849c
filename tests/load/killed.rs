//! A supervisor that is killed by SIGKILL at any moment: the record, the disk and the processes
//! afterwards.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{self, Process, State, assert_same, eventually, is_alive, wait};
use fastrand::Rng;
use nix::sys::signal::Signal;
use serde_json::Value;

/// How many supervisors are killed.
const LIVES: u64 = 200;

const NAME: &str = "victim";

/// Prints nothing on stderr (a shell reports jobs that were killed). Records the pid of its shell,
/// leaves a process behind that keeps no stream, and one that does,
/// writes two megabytes, and waits. It ends late when it is asked to stop.
const SCRIPT: &str =
    "exec 2>/dev/null; echo $$ >\"$PID_FILE\"; trap 'seq 300001 320000; exit 0' TERM
sleep 1000 >/dev/null 2>&1 & sleep 1000 & seq 1 300000; while :; do sleep 0.01; done";

/// Where in a life the kill comes.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So many microseconds after the supervisor was started.
    Start(u64),
    /// So many bytes of output later.
    Bytes(u64),
    /// So many microseconds after a stop was asked for.
    Stop(u64),
}

impl Moment {
    fn pick(random: &mut Rng) -> Self {
        match random.u8(..4) {
            0 => Self::Start(random.u64(..20_000)),
            // Rotation comes all along: the log is rotated each 64 KiB.
            1 | 2 => Self::Bytes(random.u64(..1_900_000)),
            _ => Self::Stop(random.u64(..30_000)),
        }
    }
}

/// Everything that comes through the pipe, and the moment when so much of it has come.
fn read_all(mut stdout: ChildStdout, until: u64, reached: std::sync::mpsc::Sender<()>) -> Vec<u8> {
    let mut seen = Vec::new();
    let mut buffer = vec![0; 65536];
    let mut reached = Some(reached);
    while let Ok(count @ 1..) = stdout.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..count]);
        if seen.len() as u64 >= until {
            reached.take();
        }
    }
    seen
}

/// Lets one supervisor live to its moment; gives what it has forwarded.
fn live_and_die(state: &State, pid_file: &Path, moment: Moment) -> Vec<u8> {
    let options = ["--log-max-size", "64KiB", "--log-max-files", "100000"];
    let mut command = state.run(NAME, &options, SCRIPT);
    command.env("PID_FILE", pid_file).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut supervisor = Process::spawn(&mut command);
    let (reached, when_reached) = std::sync::mpsc::channel();
    let until = match moment {
        Moment::Bytes(bytes) => bytes.max(1),
        Moment::Stop(_) => 1,
        Moment::Start(_) => u64::MAX,
    };
    let stdout = supervisor.stdout.take().unwrap();
    let reader = thread::spawn(move || read_all(stdout, until, reached));
    if let Moment::Bytes(_) | Moment::Stop(_) = moment {
        // The sender is dropped at that point, or at the end of the stream.
        let _ = when_reached.recv();
    }
    if let Moment::Stop(_) = moment {
        common::signal(&supervisor, Signal::SIGTERM);
    }
    if let Moment::Start(after) | Moment::Stop(after) = moment {
        let at = Instant::now() + Duration::from_micros(after);
        while Instant::now() < at {
            thread::yield_now();
        }
    }
    let _ = supervisor.kill();
    wait(&mut supervisor);
    // What is left of the child may hold our pipe open; `vmon ps` is what ends that.
    let listed = list(state);
    assert!(listed.iter().all(|run| run["state"] == "STOPPED"), "{moment:?}: {listed:?}");
    reader.join().unwrap()
}

/// All runs as `vmon ps` lists them, newest first.
fn list(state: &State) -> Vec<Value> {
    let output = state.vmon().args(["ps", "--all", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap()
}

/// The processes of a session, but for zombies.
fn session(leader: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|&pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default();
        // State, parent, group, session.
        fields.split_ascii_whitespace().nth(3) == Some(leader) && is_alive(pid)
    })
    .collect()
}

#[test]
fn a_killed_supervisor_leaves_a_correct_record_a_correct_log_and_no_process() {
    let state = State::new();
    let pid_file = state.file("pid");
    let (flood, farewell) = (numbers(1..=300_000), numbers(300_001..=320_000));
    // Another one each time.
    let seed = fastrand::u64(..);
    let mut random = Rng::with_seed(seed);
    let (mut lost, mut ended) = (0, 0);
    for life in 0..LIVES {
        let moment = Moment::pick(&mut random);
        let what = format!("life {life} of seed {seed}, killed at {moment:?}");
        let _ = fs::remove_file(&pid_file);
        let _ = fs::remove_dir_all(state.logs());
        let before = list(&state).len();
        let forwarded = live_and_die(&state, &pid_file, moment);

        let runs = list(&state);
        assert!(runs.len() - before <= 1, "{what}");
        if runs.len() > before {
            match runs[0]["reason"].as_str() {
                Some("supervisor-lost") => lost += 1,
                Some("stopped" | "exited" | "killed") => ended += 1,
                other => panic!("{what}: {other:?}"),
            }
            assert!(runs[0]["ended_at"].is_string(), "{what}");
            assert_eq!(state.sandbox_column(NAME, "status").as_deref(), Some("STOPPED"), "{what}");
        }
        if let Ok(leader) = fs::read_to_string(&pid_file) {
            let leader = leader.trim();
            assert_eq!(session(leader), Vec::<u32>::new(), "{what}");
        }
        let log = state.whole_log(NAME);
        assert!(is_prefix(&log, &flood, &farewell), "{what}: not what was written");
        assert!(forwarded.len() <= log.len(), "{what}");
        assert_same(&forwarded, &log[..forwarded.len()], &format!("{what}: forwarded"));
    }
    assert!(
        lost >= LIVES / 4,
        "{lost} lost, {ended} ended: the moments are not where they should be"
    );
    // And the name is free.
    let again = state.run(NAME, &[], "echo again").output().unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(again.stdout, b"again\n");
    eventually("the last run is on record", || list(&state)[0]["reason"] == "exited");
}

fn numbers(range: std::ops::RangeInclusive<u32>) -> Vec<u8> {
    range.flat_map(|number| format!("{number}\n").into_bytes()).collect()
}

/// Whether `log` is the beginning of the flood, or of a flood that a stop has cut anywhere and of
/// the farewell that follows it.
fn is_prefix(log: &[u8], flood: &[u8], farewell: &[u8]) -> bool {
    let common = log.iter().zip(flood).take_while(|(one, other)| one == other).count();
    // The farewell may begin with the very bytes that the flood would have gone on with.
    (common.saturating_sub(8)..=common).any(|cut| farewell.starts_with(&log[cut..]))
}
