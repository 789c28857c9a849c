//! Ends that could not be written to the database, as files beside it.
//!
//! `<config>@<name>.<unique>.end.json` holds a whole [`Record`], so that it can be taken in also
//! where the database never heard of the run. Taking in is idempotent: a crash between the commit
//! and the removal of the file costs nothing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use rusqlite::Transaction;
use serde_json::{Value, json};

use super::connection::random;
use super::error::Fault;
use super::read::{ConsoleBytes, Run};
use super::record::{Child, Ending, Record, Stage, timestamp};
use super::{spec, store};
use crate::monitor::Identity;

/// Of the file's content. A file of another version waits for a vmon that knows it.
const VERSION: u64 = 1;
const SUFFIX: &str = ".end.json";
/// Far above any command line that exec takes in practice; nothing larger is read into memory.
const MAX_SIZE: u64 = 4 << 20;

/// A spilled end.
#[derive(Debug)]
pub(super) struct Spilled {
    path: PathBuf,
    record: Record,
}

impl Spilled {
    /// Whether it is this run's.
    pub(super) fn is_of(&self, run: &Run) -> bool {
        let Record { name, config_file, supervisor, started_at, .. } = &self.record;
        (name, config_file) == (&run.name, &run.config_file)
            && run.supervisor_identity.as_ref() == Some(supervisor)
            && run.started_at.is_some_and(|at| timestamp(at) == *started_at)
    }
}

/// Writes `record` to a file of its own in `directory`. Not synced: this is called on the loop.
pub(super) fn write(directory: &Path, db: &Path, record: &Record) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let path = directory.join(format!("{}{SUFFIX}", file_name(record)));
    let temporary = directory.join(format!(".spill-{}-{:x}", std::process::id(), random()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = file
        .write_all(to_json(db, record).to_string().as_bytes())
        .and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map(|()| path)
}

/// Names are ASCII and have no `@`; each is cut so that the whole stays below NAME_MAX.
fn file_name(record: &Record) -> String {
    let Record { config_file, name, supervisor, .. } = record;
    let unique = random();
    format!("{config_file:.64}@{name:.64}.{}-{}-{unique:x}", supervisor.pid, supervisor.start)
}

/// The ends that were spilled in `directory` for the database `db`; none when it can't be read.
pub(super) fn read(directory: &Path, db: &Path) -> Vec<Spilled> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let ends =
        paths.filter(|path| path.as_os_str().as_encoded_bytes().ends_with(SUFFIX.as_bytes()));
    ends.filter_map(|path| read_one(path, db)).collect()
}

fn read_one(path: PathBuf, db: &Path) -> Option<Spilled> {
    let content = read_file(&path).inspect_err(|error| {
        // Another process has taken it in.
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(path = %path.display(), %error, "a spilled end can't be read");
        }
    });
    let value: Value = serde_json::from_slice(&content.ok()?).unwrap_or(Value::Null);
    if value["version"].as_u64().is_some_and(|version| version != VERSION)
        || value["database"].as_str().is_some_and(|database| database != db.to_string_lossy())
    {
        return None;
    }
    let Some(record) = from_json(&value) else {
        tracing::warn!(path = %path.display(), "not a spilled end, or cut short: remove it");
        return None;
    };
    Some(Spilled { path, record })
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // O_NONBLOCK: a FIFO of that name must not stop us.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file: File = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut content = Vec::new();
    file.take(MAX_SIZE).read_to_end(&mut content)?;
    Ok(content)
}

/// Brings the rows up to the spilled records.
pub(super) fn take_in(tx: &Transaction<'_>, spilled: &[Spilled]) -> Result<(), Fault> {
    for Spilled { record, .. } in spilled {
        store::store_spilled(tx, record)?;
    }
    Ok(())
}

/// Removes the files of what was taken in and committed.
pub(super) fn remove(spilled: &[Spilled]) {
    for Spilled { path, .. } in spilled {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a spilled end stays behind");
            }
            _ => {}
        }
    }
}

fn to_json(db: &Path, record: &Record) -> Value {
    let Record { supervisor, child, .. } = record;
    json!({
        "version": VERSION,
        "database": db.to_string_lossy(),
        "name": record.name,
        "config_file": record.config_file,
        "config_last_modified": record.config_last_modified,
        "rootfs_paths": record.rootfs_paths,
        "spec": record.spec,
        "socket": spec::path(record.socket.as_deref()),
        "started_at": record.started_at,
        "supervisor": {
            "pid": supervisor.pid,
            "start": supervisor.start,
            "boot_id": supervisor.boot_id,
            "pid_namespace": supervisor.pid_namespace,
        },
        "child": child.as_ref().map(|child| json!({
            "pid": child.pid,
            "start": child.start,
            "running_at": child.running_at,
        })),
        // Another run of the same supervisor was to follow.
        "restarting": !record.is_over(),
        "end": record.ending().map(|end| json!({
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
        })),
    })
}

fn from_json(value: &Value) -> Option<Record> {
    let supervisor = &value["supervisor"];
    let child = match &value["child"] {
        Value::Null => None,
        child => Some(Child {
            pid: number(&child["pid"])?,
            start: child["start"].as_u64()?,
            running_at: text(&child["running_at"])?,
        }),
    };
    Some(Record {
        row: None,
        name: text(&value["name"])?,
        config_file: text(&value["config_file"])?,
        config_last_modified: text(&value["config_last_modified"])?,
        rootfs_paths: text(&value["rootfs_paths"])?,
        spec: text(&value["spec"])?,
        socket: spec::read_path(&value["socket"]),
        supervisor: Identity {
            pid: number(&supervisor["pid"])?,
            start: supervisor["start"].as_u64()?,
            boot_id: text(&supervisor["boot_id"])?,
            pid_namespace: supervisor["pid_namespace"].as_u64(),
        },
        started_at: text(&value["started_at"])?,
        child,
        reaped: None,
        stage: match value["restarting"].as_bool() {
            Some(true) => Stage::Restarting(ending(&value["end"])?),
            _ => Stage::Stopped(ending(&value["end"])?),
        },
        follows: false,
    })
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
    })
}

fn console(value: &Value) -> Option<ConsoleBytes> {
    Some(ConsoleBytes {
        name: text(&value["name"])?,
        bytes_logged: value["bytes_logged"].as_u64()?,
        bytes_dropped: value["bytes_dropped"].as_u64()?,
    })
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(ToOwned::to_owned)
}

fn number<T: TryFrom<i64>>(value: &Value) -> Option<T> {
    value.as_i64().and_then(|number| T::try_from(number).ok())
}
