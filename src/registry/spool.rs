//! Ends of runs that could not be written to the database, as files beside it.
//!
//! `<config>@<name>.<unique>.end.json` contains a whole [`Record`], so that it can be imported even
//! if the database has no row of the run. Import is idempotent: a crash between the commit and the
//! removal of the file has no effect.

mod file;
mod reserve;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rusqlite::Transaction;
use serde_json::{Value, json};

use super::columns::ConsoleBytes;
use super::connection::random;
use super::error::Fault;
use super::record::{Child, Ending, Record, Stage};
use super::run::{Run, RunStatus};
use super::site::Site;
use super::state_dir::StateDir;
use super::{Paths, store};
use crate::access::make_directories;
use crate::monitor::{Identity, Phase, codec};
use crate::timestamp::rfc3339;
pub(super) use reserve::Reserve;
#[cfg(test)]
pub(super) use reserve::directory as reserved;

/// Version of the file's content. A file of another version is left for a vmon that supports it.
const VERSION: u64 = 1;
const SUFFIX: &str = ".end.json";

/// An end in the spool directory.
#[derive(Debug)]
pub(super) struct Spooled {
    path: PathBuf,
    record: Record,
}

impl Spooled {
    /// Whether it is the end of this run.
    pub(super) fn is_of(&self, run: &Run) -> bool {
        let Record { name, config_file, supervisor, started_at, .. } = &self.record;
        (name, config_file) == (&run.name, &run.config_file)
            && run.supervisor_identity.as_ref() == Some(supervisor)
            && run.started_at.is_some_and(|at| rfc3339(at) == *started_at)
    }

    /// Completes a run that was read from the database, which does not have this end of it yet.
    pub(super) fn complete(&self, run: &mut Run) {
        let Record { child, .. } = &self.record;
        let Stage::Stopped(end) = &self.record.stage else { return };
        (run.state, run.status) = (Some(Phase::Stopped), RunStatus::Stopped);
        run.pid = run.pid.or(child.as_ref().map(|child| child.pid));
        run.running_at = run.running_at.or_else(|| time(&child.as_ref()?.running_at));
        run.ended_at = time(&end.at);
        (run.exit_code, run.signal) = (end.exit_code, end.signal);
        run.reason = end.reason.parse().ok();
        (run.bytes_logged, run.bytes_dropped) = (Some(end.bytes_logged), Some(end.bytes_dropped));
        run.consoles.clone_from(&end.consoles);
    }
}

/// Writes the ends of runs of one supervisor, oldest first, to a file in `directory`: into what is
/// reserved for it, if that is given and they fit, or else a new one. If that has no room for all of
/// them, the last ones that fit go into what is reserved. Returns the path, and how many are not in
/// it. Not synced, because this runs on the loop.
pub(super) fn write(
    directory: &Path,
    db: &Path,
    records: &[&Record],
    reserve: Option<Reserve>,
) -> io::Result<(PathBuf, usize)> {
    let last = *records.last().ok_or(io::ErrorKind::InvalidInput)?;
    let path = directory.join(format!("{}{SUFFIX}", file_name(last)));
    let room = reserve.as_ref().map_or(0, Reserve::room);
    let (reserved, left_out) = fitting(db, records, room);
    let write_new = || {
        make_directories(directory)?;
        file::write(directory, &path, content(db, records).as_bytes())
    };
    if left_out > 0 && write_new().is_ok() {
        return Ok((path, 0));
    }
    if reserve.is_some_and(|reserve| reserve.write(reserved.as_bytes(), &path).is_ok()) {
        return Ok((path, left_out));
    }
    write_new()?;
    Ok((path, 0))
}

/// The content of a file with the last ends that `room` bytes hold, at least one, and the number of
/// those before them.
fn fitting(db: &Path, records: &[&Record], room: usize) -> (String, usize) {
    let mut left_out = 0;
    loop {
        let kept = records.get(left_out..).unwrap_or_default();
        let content = content(db, kept);
        if content.len() <= room || kept.len() <= 1 {
            return (content, left_out);
        }
        left_out += 1;
    }
}

/// Reserves the room that the end of this run takes in the spool directory.
pub(super) fn reserve(directory: &Path, db: &Path, record: &Record) -> io::Result<Reserve> {
    /// Other keys, numbers and times, and the counters of a dozen consoles.
    const OTHERS: usize = 4096;
    /// The longest form of a byte in JSON.
    const LONGEST: usize = "\\u0000".len();
    let Record { spec, rootfs_paths, socket, supervisor, .. } = record;
    // It is JSON already, whose control characters are escaped.
    let escapes = spec.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count();
    let socket = socket.as_ref().map_or(0, |socket| socket.as_os_str().len());
    let texts = rootfs_paths.len() + socket + db.as_os_str().len();
    Reserve::new(directory, supervisor, spec.len() + escapes + texts * LONGEST + OTHERS)
}

/// Removes the temporary and reserved files of a supervisor that was killed.
pub(super) fn sweep(directory: &Path, supervisor: &Identity) {
    file::sweep_temporary(directory, supervisor.pid);
    reserve::sweep(directory, supervisor);
}

/// Names are ASCII without `@`; each is truncated so that the file name stays below NAME_MAX.
fn file_name(record: &Record) -> String {
    let Record { config_file, name, supervisor, .. } = record;
    let unique = random();
    format!("{config_file:.64}@{name:.64}.{}-{}-{unique:x}", supervisor.pid, supervisor.start)
}

/// Reads the ends for this database; none if the spool directory can't be read. Calls `skip` with
/// each file that has the name of an end and can't be imported, and the reason.
pub(super) fn read(paths: &Paths, mut skip: impl FnMut(PathBuf, String)) -> Vec<Spooled> {
    let mut ends = Vec::new();
    let entries = fs::read_dir(&paths.state.spool).into_iter().flatten();
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        if !path.as_os_str().as_encoded_bytes().ends_with(SUFFIX.as_bytes()) {
            continue;
        }
        match read_one(&path, paths) {
            Ok(records) => {
                ends.extend(
                    records.into_iter().map(|record| Spooled { path: path.clone(), record }),
                );
            }
            Err(reason) => skip(path, reason),
        }
    }
    sort(&mut ends);
    ends
}

/// Sorts ends by the start of their supervisors, which counts from the boot, and those of one
/// supervisor by their number. The wall clock decides between boots only.
fn sort(ends: &mut [Spooled]) {
    let mut boots: BTreeMap<String, String> = BTreeMap::new();
    for Spooled { record, .. } in &*ends {
        let first = boots
            .entry(record.supervisor.boot_id.clone())
            .or_insert_with(|| record.started_at.clone());
        if record.started_at < *first {
            first.clone_from(&record.started_at);
        }
    }
    ends.sort_by_cached_key(|Spooled { record, .. }| {
        let Identity { pid, start, boot_id, .. } = &record.supervisor;
        (boots.get(boot_id).cloned(), boot_id.clone(), *start, *pid, record.restarts)
    });
}

/// The records in a file; none if it is for another database, or was removed.
fn read_one(path: &Path, paths: &Paths) -> Result<Vec<Record>, String> {
    let content = match file::read(path) {
        // Another process has imported it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        content => content.map_err(|error| error.to_string())?,
    };
    let value: Value = serde_json::from_slice(&content).unwrap_or(Value::Null);
    if let Some(database) = value.get("database").and_then(Value::as_str)
        && !is_for(Path::new(database), paths)?
    {
        return Ok(Vec::new());
    }
    if let Some(version) =
        value.get("version").and_then(Value::as_u64).filter(|&version| version != VERSION)
    {
        return Err(format!("its version {version} is not supported by this vmon"));
    }
    let unreadable = || "it is not a spooled end, or it is truncated; remove it".to_owned();
    all_from_json(&value, &paths.state).ok_or_else(unreadable)
}

/// Whether an end is for our database, according to its content; an error if the named database
/// does not exist.
///
/// In the directory beside the database only the file name of the database counts, because the
/// whole state directory may have been moved, mounted or linked elsewhere. In any other directory
/// the whole path counts.
fn is_for(database: &Path, paths: &Paths) -> Result<bool, String> {
    let beside = paths.db.parent().filter(|parent| parent.join("run") == paths.state.spool);
    let other = match (beside, database.file_name()) {
        (Some(_), Some(name)) if is_name_of(&paths.db, name) => return Ok(true),
        (Some(beside), Some(name)) => beside.join(name),
        (None, Some(name)) => {
            let parent = database.parent().and_then(|parent| fs::canonicalize(parent).ok());
            parent.map_or_else(|| database.to_owned(), |parent| parent.join(name))
        }
        (_, None) => database.to_owned(),
    };
    if other.as_os_str().to_string_lossy() == paths.db.to_string_lossy() {
        return Ok(true);
    }
    match fs::symlink_metadata(&other) {
        Ok(metadata) if metadata.is_file() => Ok(false),
        _ => Err(format!("it is for the database {}, which does not exist", other.display())),
    }
}

/// The file contains the name with U+FFFD in place of bytes that are not UTF-8.
fn is_name_of(db: &Path, name: &OsStr) -> bool {
    db.file_name().is_some_and(|own| own.to_string_lossy() == name.to_string_lossy())
}

/// Updates the rows from the spooled records.
pub(super) fn import(tx: &Transaction<'_>, spooled: &[Spooled]) -> Result<(), Fault> {
    for Spooled { record, .. } in spooled {
        store::store_spooled(tx, record)?;
    }
    Ok(())
}

/// Removes the files of ends that were imported and committed.
pub(super) fn remove(spooled: &[Spooled]) {
    for Spooled { path, .. } in spooled {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "can't remove an imported end");
            }
            _ => {}
        }
    }
}

/// The last record, with what is different in those before it.
fn content(db: &Path, records: &[&Record]) -> String {
    let [earlier @ .., last] = records else { return String::new() };
    let mut value = to_json(db, last);
    if let (Value::Object(object), false) = (&mut value, earlier.is_empty()) {
        let earlier = earlier.iter().map(|record| {
            json!({
                "started_at": record.started_at,
                "restarts": record.restarts,
                "child": child_to_json(record),
                "end": end_to_json(record),
            })
        });
        object.insert("earlier".to_owned(), earlier.collect());
    }
    value.to_string()
}

fn child_to_json(record: &Record) -> Option<Value> {
    let Child { pid, start, running_at } = record.child.as_ref()?;
    Some(json!({ "pid": pid, "start": start, "running_at": running_at }))
}

fn end_to_json(record: &Record) -> Option<Value> {
    let end = record.ending()?;
    Some(json!({
        "at": end.at,
        "exit_code": end.exit_code,
        "signal": end.signal,
        "reason": end.reason,
        "bytes_logged": end.bytes_logged,
        "bytes_dropped": end.bytes_dropped,
        "consoles": end.consoles.iter().map(|console| json!({
            "name": console.name,
            "bytes_logged": console.bytes_logged,
            "bytes_dropped": console.bytes_dropped,
        })).collect::<Value>(),
    }))
}

fn to_json(db: &Path, record: &Record) -> Value {
    let Record { supervisor, site, .. } = record;
    json!({
        "version": VERSION,
        "database": db.to_string_lossy(),
        "name": record.name,
        "config_file": record.config_file,
        "config_last_modified": record.config_last_modified,
        "rootfs_paths": record.rootfs_paths,
        "spec": record.spec,
        "socket": codec::path(record.socket.as_deref()),
        "started_at": record.started_at,
        "supervisor": {
            "pid": supervisor.pid,
            "start": supervisor.start,
            "boot_id": supervisor.boot_id,
            "pid_namespace": supervisor.pid_namespace,
            "machine_id": site.machine_id,
            "host": site.host,
            "lock": site.locked.map(|byte| byte.to_string()),
        },
        "child": child_to_json(record),
        "restarts": record.restarts,
        // Whether another run of the same supervisor follows.
        "restarting": !record.is_over(),
        "end": end_to_json(record),
    })
}

fn all_from_json(value: &Value, state: &Arc<StateDir>) -> Option<Vec<Record>> {
    let last = from_json(value, state)?;
    let mut records = Vec::new();
    for run in value["earlier"].as_array().into_iter().flatten() {
        records.push(Record {
            started_at: text(&run["started_at"])?,
            restarts: number(&run["restarts"])?,
            child: child(&run["child"])?,
            stage: Stage::Stopped(ending(&run["end"])?),
            ..last.clone()
        });
    }
    records.push(last);
    Some(records)
}

fn from_json(value: &Value, state: &Arc<StateDir>) -> Option<Record> {
    let supervisor = &value["supervisor"];
    Some(Record {
        row: None,
        name: text(&value["name"])?,
        config_file: text(&value["config_file"])?,
        config_last_modified: text(&value["config_last_modified"])?,
        rootfs_paths: text(&value["rootfs_paths"])?,
        state: Arc::clone(state),
        spec: text(&value["spec"])?,
        socket: codec::read_path(&value["socket"]),
        supervisor: Identity {
            pid: number(&supervisor["pid"])?,
            start: supervisor["start"].as_u64()?,
            boot_id: text(&supervisor["boot_id"])?,
            pid_namespace: supervisor["pid_namespace"].as_u64(),
        },
        // Not in the files of earlier versions.
        site: Arc::new(Site::on_record(
            text(&supervisor["machine_id"]),
            text(&supervisor["host"]),
            supervisor["lock"].as_str(),
        )),
        started_at: text(&value["started_at"])?,
        child: child(&value["child"])?,
        reaped: None,
        stage: match value["restarting"].as_bool() {
            Some(true) => Stage::Restarting(ending(&value["end"])?),
            _ => Stage::Stopped(ending(&value["end"])?),
        },
        follows: false,
        // Not in the files of earlier versions.
        restarts: number(&value["restarts"]).unwrap_or_default(),
        keep_runs: 0,
    })
}

/// The child, if there was one; `None` if it is not readable.
fn child(child: &Value) -> Option<Option<Child>> {
    if child.is_null() {
        return Some(None);
    }
    let (pid, start) = (number(&child["pid"])?, child["start"].as_u64()?);
    Some(Some(Child { pid, start, running_at: text(&child["running_at"])? }))
}

fn ending(end: &Value) -> Option<Ending> {
    Some(Ending {
        at: text(&end["at"])?,
        exit_code: number(&end["exit_code"]),
        signal: number(&end["signal"]),
        reason: text(&end["reason"])?,
        bytes_logged: end["bytes_logged"].as_u64()?,
        bytes_dropped: end["bytes_dropped"].as_u64()?,
        consoles: end["consoles"].as_array().into_iter().flatten().filter_map(console).collect(),
        // Not in the file. Then runs whose output is gone stay on record for longer.
        rotated: Vec::new(),
    })
}

fn console(value: &Value) -> Option<ConsoleBytes> {
    Some(ConsoleBytes {
        name: text(&value["name"])?,
        bytes_logged: value["bytes_logged"].as_u64()?,
        bytes_dropped: value["bytes_dropped"].as_u64()?,
    })
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    Some(DateTime::parse_from_rfc3339(text).ok()?.to_utc())
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(ToOwned::to_owned)
}

fn number<T: TryFrom<i64>>(value: &Value) -> Option<T> {
    value.as_i64().and_then(|number| T::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::{Command, ExitStatus};
    use crate::fuzz::{mutate, rounds};
    use crate::monitor::{End, Outcome, Reason, Sandbox, Starting, Transition};

    #[test]
    fn what_is_reserved_is_enough_for_the_end_of_a_run_with_a_long_command() {
        let spool = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::new("n".repeat(128), "/log \u{1}\"").unwrap();
        let command = Command::new("sh").args(["-c", &"\"\\\n\u{1}".repeat(5000)]);
        let supervisor = Identity::current();
        let mut starting = Starting::new(&sandbox, &supervisor, Utc::now());
        starting.command = Some(&command);
        let state = Arc::new(StateDir::new("/state".into(), "/state/run".into()));
        let mut record = Record::new(&starting, &Value::Null, &state);
        let db = PathBuf::from(format!("/{}/sandbox.db", "\u{1}".repeat(400)));
        let _reserve = reserve(spool.path(), &db, &record).unwrap();
        let reserved = reserved(spool.path()).read_dir().unwrap().next().unwrap().unwrap();
        record.apply(&Transition::Running { at: Utc::now(), child: supervisor.clone() });
        let outcome = Outcome::Ended { status: ExitStatus::Code(255), reason: Reason::Exited };
        record.apply(&Transition::Stopped { at: Utc::now(), end: End::new(outcome) });
        let length = to_json(&db, &record).to_string().len() as u64;
        let room = reserved.metadata().unwrap().len();
        assert!(record.spec.len() > 20_000 && length <= room, "{length} of {room}");
    }

    #[test]
    fn a_spooled_end_tells_where_its_supervisor_was() {
        let state = Arc::new(StateDir::new("/state".into(), "/state/run".into()));
        let id = "0123456789abcdef0123456789abcdef";
        let end = json!({ "at": "", "reason": "exited", "bytes_logged": 0, "bytes_dropped": 0 });
        let spooled = json!({
            "name": "web", "config_file": "Sandboxfile", "config_last_modified": "",
            "rootfs_paths": "", "spec": "{}", "started_at": "", "end": end,
            "supervisor": { "pid": 7, "start": 8, "boot_id": "", "machine_id": id, "host": "a",
                "lock": "9:10" },
        });
        let record = from_json(&spooled, &state).unwrap();
        let supervisor = &to_json(Path::new("/state/sandbox.db"), &record)["supervisor"];
        for key in ["machine_id", "host", "lock"] {
            assert_eq!(supervisor[key], spooled["supervisor"][key], "{key}");
        }
    }

    /// In a directory that is not beside the database, an end belongs to the database whose path it
    /// names, with any symbolic links in that path.
    #[test]
    fn the_whole_path_of_the_database_counts_away_from_it() {
        let scratch = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(scratch.path()).unwrap();
        fs::create_dir(base.join("a")).unwrap();
        fs::write(base.join("a/other.db"), "").unwrap();
        std::os::unix::fs::symlink("a", base.join("link")).unwrap();
        let paths = Paths {
            db: base.join("a/sandbox.db"),
            state: Arc::new(StateDir::new(base.join("a"), base.join("spool"))),
        };
        for (database, expected) in [
            ("a/sandbox.db", Ok(true)),
            ("link/sandbox.db", Ok(true)),
            ("link/other.db", Ok(false)),
        ] {
            assert_eq!(is_for(&base.join(database), &paths), expected, "{database}");
        }
        for database in ["b/sandbox.db", "a/gone.db", ".."] {
            assert!(is_for(&base.join(database), &paths).is_err(), "{database}");
        }
    }

    #[test]
    fn the_last_ends_that_fit_are_written_and_each_is_read_as_it_was() {
        let sandbox = Sandbox::new("web", "/log").unwrap();
        let supervisor = Identity::current();
        let state = Arc::new(StateDir::new("/state".into(), "/state/run".into()));
        let db = Path::new("/state/sandbox.db");
        let ended = |code: u8| {
            let starting = Starting::new(&sandbox, &supervisor, Utc::now());
            let mut record = Record::new(&starting, &Value::Null, &state);
            record.restarts = code.into();
            record.apply(&Transition::Running { at: Utc::now(), child: supervisor.clone() });
            let status = ExitStatus::Code(code.into());
            let outcome = Outcome::Ended { status, reason: Reason::Exited };
            record.apply(&Transition::Stopped { at: Utc::now(), end: End::new(outcome) });
            record
        };
        let records: Vec<Record> = (1..=16).map(ended).collect();
        let all: Vec<&Record> = records.iter().collect();
        let read = |content: &str| {
            let value = serde_json::from_str(content).unwrap();
            let read = all_from_json(&value, &state).unwrap();
            read.iter().map(|record| to_json(db, record)).collect::<Vec<_>>()
        };
        let written = |records: &[&Record]| {
            records.iter().map(|record| to_json(db, record)).collect::<Vec<_>>()
        };
        // What is reserved for a command of usual length.
        let (content, left_out) = fitting(db, &all, 8192);
        assert_eq!((read(&content), left_out), (written(&all), 0), "{} bytes", content.len());
        let (content, left_out) = fitting(db, &all, 4096);
        assert!(content.len() <= 4096 && (1..15).contains(&left_out), "{left_out}");
        assert_eq!(read(&content), written(&all[left_out..]));
        let (content, left_out) = fitting(db, &all, 0);
        assert_eq!((read(&content), left_out), (written(&all[15..]), 15));
    }

    #[test]
    fn fuzzed_ends_are_read_or_refused() {
        let state = Arc::new(StateDir::new("/state".into(), "/state/run".into()));
        let text = json!({
            "version": VERSION, "database": "/state/sandbox.db", "name": "a", "config_file": "c",
            "config_last_modified": "t", "rootfs_paths": "", "spec": "{}", "socket": "/s",
            "started_at": "t", "restarts": 0, "restarting": false,
            "supervisor": {
                "pid": 1, "start": 2, "boot_id": "b", "pid_namespace": 3,
                "machine_id": "0123456789abcdef0123456789abcdef", "host": "h", "lock": "9:10",
            },
            "child": { "pid": 1, "start": 2, "running_at": "t" },
            "end": {
                "at": "t", "exit_code": 7, "signal": null, "reason": "exited", "bytes_logged": 1,
                "bytes_dropped": 0,
                "consoles": [{ "name": "c", "bytes_logged": 1, "bytes_dropped": 0 }],
            },
        });
        let written = from_json(&text, &state).unwrap();
        assert_eq!(to_json(Path::new("/state/sandbox.db"), &written), text);
        let text = text.to_string();
        rounds(|random| {
            let mut bytes = text.clone().into_bytes();
            mutate(random, &mut bytes, &[b"null", b"{}", b"1e999", b"-1", b"true"]);
            let Ok(value) = serde_json::from_slice(&bytes) else { return };
            let Some(record) = from_json(&value, &state) else { return };
            let written = to_json(Path::new("/state/sandbox.db"), &record);
            let again = from_json(&written, &state).unwrap();
            assert_eq!(to_json(Path::new("/state/sandbox.db"), &again), written);
        });
    }
}
