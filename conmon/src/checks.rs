//! The checks of the options, in their order. The texts are what callers and the tests of engines
//! look for.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use tracing::level_filters::LevelFilter;

use crate::failure::Failure;
use crate::log_path::Drivers;
use crate::message::Key;
use crate::options::Options;
use crate::say;
use crate::shape::{Attach, Progress, Shape};

/// The length of a short id. An id for journald is longer.
pub const SHORT_ID: usize = 12;

/// The directory of links without `--socket-dir-path`.
const SOCKET_DIR: &str = "/var/run/crio";

/// The options, checked.
#[derive(Debug)]
pub struct Config {
    pub shape: Shape,
    /// The id of the container.
    pub cid: OsString,
    /// The OCI runtime. It has a slash, so that it is not searched in `PATH`.
    pub runtime: PathBuf,
    /// The bundle, absolute; `None` for an exec session without one.
    pub bundle: Option<PathBuf>,
    /// The file that the runtime writes the pid to.
    pub pid_file: PathBuf,
    /// The link to the attach socket: its directory and name.
    pub link: Option<(PathBuf, OsString)>,
    pub drivers: Drivers,
    /// The other ones.
    pub options: Options,
}

/// The checks that come before a log level is known.
///
/// # Errors
///
/// What is wrong, for a line that begins with `conmon: `.
pub fn first(options: &Options) -> Result<&OsStr, Failure> {
    match options.log_max_files {
        Some(..=-1) => return Err(Failure::new("log-max-files must be non-negative")),
        Some(0) if options.log_rotate => {
            let text = "log-max-files must be at least 1 when log-rotate is enabled";
            return Err(Failure::new(text));
        }
        _ => {}
    }
    let missing = || Failure::new("Container ID not provided. Use --cid");
    options.cid.as_deref().ok_or_else(missing)
}

/// The log level.
///
/// # Errors
///
/// It is not known.
pub fn level(options: &Options) -> Result<LevelFilter, Failure> {
    let Some(word) = &options.log_level else { return Ok(LevelFilter::WARN) };
    let unknown = || Failure::new(format!("No such log level {}", word.display()));
    say::level(word).ok_or_else(unknown)
}

/// All other checks but the opening of the log.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn rest(cid: OsString, options: Options) -> Result<Config, Failure> {
    let shape = shape(&options)?;
    let legacy_exec = matches!(shape, Shape::ExecApi0(_));
    if options.cuuid.is_none() && !legacy_exec {
        return Err(Failure::new("Container UUID not provided. Use --cuuid"));
    }
    let runtime = runtime(options.runtime.as_deref())?;
    if options.exec && options.exec_process_spec.is_none() {
        let text = "Exec process spec path not provided. Use --exec-process-spec";
        return Err(Failure::new(text));
    }
    if options.exit_delay < 0 {
        let text = "Delay before invoking exit command must be greater than or equal to 0";
        return Err(Failure::new(text));
    }
    if options.seccomp_notify_socket.is_some() {
        let text = "--seccomp-notify-socket is not supported: leave it out, and have the OCI \
                    runtime's own listener answer seccomp notifications";
        return Err(Failure::new(text));
    }
    let drivers = drivers(&cid, &options)?;
    let here = || std::env::current_dir().map_err(Failure::of("can't find the working directory"));
    let bundle = match &options.bundle {
        Some(bundle) => Some(here()?.join(bundle)),
        None if options.exec => None,
        None => Some(here()?),
    };
    let pid_file = match &options.container_pidfile {
        Some(path) => PathBuf::from(path),
        None => here()?.join(prefixed("pidfile-", &cid)),
    };
    let link = match (&options.cuuid, options.full_attach) {
        (Some(name), false) => {
            let directory = options.socket_dir.as_deref().unwrap_or(OsStr::new(SOCKET_DIR));
            Some((PathBuf::from(directory), name.clone()))
        }
        _ => None,
    };
    Ok(Config { shape, cid, runtime, bundle, pid_file, link, drivers, options })
}

impl Config {
    /// The key of messages.
    pub fn key(&self) -> Key {
        match (self.options.api_version, self.options.exec) {
            (true, _) => Key::Data,
            (false, true) => Key::ExitCode,
            (false, false) => Key::Pid,
        }
    }

    /// The bundle, unless the container has the stdio of this process and so no sockets.
    pub fn socket_home(&self) -> Option<&Path> {
        self.bundle.as_deref().filter(|_| !self.drivers.passthrough)
    }
}

fn shape(options: &Options) -> Result<Shape, Failure> {
    let Options { exec, exec_attach, api_version, restore, .. } = options;
    if *exec && restore.is_some() {
        return Err(Failure::new("Cannot use 'exec' and 'restore' at the same time"));
    }
    if *exec_attach && !exec {
        return Err(Failure::new("Attach can only be specified with exec"));
    }
    if *exec_attach && !api_version {
        let text = "Attach can only be specified for a non-legacy exec session";
        return Err(Failure::new(text));
    }
    let attach = if *exec_attach { Attach::First } else { Attach::No };
    Ok(match (exec, api_version, restore) {
        (true, true, _) => Shape::ExecApi1(Progress::Preparing, attach),
        (true, false, _) => Shape::ExecApi0(Progress::Preparing),
        (false, _, Some(_)) => Shape::Restore(Progress::Preparing),
        (false, _, None) => Shape::Create(Progress::Preparing),
    })
}

/// The path of the runtime, which must be executable for this user. A directory is as well.
fn runtime(given: Option<&OsStr>) -> Result<PathBuf, Failure> {
    let missing = || Failure::new("Runtime path not provided. Use --runtime");
    let given = given.ok_or_else(missing)?;
    let text = format!("Runtime path {} is not valid", given.display());
    access(given, AccessFlags::X_OK).map_err(Failure::of(text))?;
    let has_slash = given.as_bytes().contains(&b'/');
    Ok(if has_slash { PathBuf::from(given) } else { Path::new(".").join(given) })
}

fn drivers(cid: &OsStr, options: &Options) -> Result<Drivers, Failure> {
    let drivers =
        Drivers::parse(&options.log_paths).map_err(|error| Failure::new(error.to_string()))?;
    if drivers.journald {
        if cid.len() <= SHORT_ID {
            return Err(Failure::new("Container ID must be longer than 12 characters"));
        }
        options.log_labels.iter().try_for_each(|label| check_label(label))?;
    } else if drivers.k8s_file.is_some() {
        if options.log_tag.is_some() {
            return Err(Failure::new("k8s-file doesn't support --log-tag"));
        }
        if !options.log_labels.is_empty() {
            return Err(Failure::new("k8s-file doesn't support --log-label"));
        }
    }
    if options.no_container_partial_message && !drivers.journald {
        tracing::warn!("--no-container-partial-message has no effect without journald log driver");
    }
    Ok(drivers)
}

/// A label is a field of journald: `NAME=VALUE`, with a name of capital letters, digits and `_`. The
/// messages are conmon's, which its tests look for.
fn check_label(label: &OsStr) -> Result<(), Failure> {
    let bytes = label.as_bytes();
    let invalid = |why: &str| Failure::new(format!("{why}: {}", label.display()));
    let mut parts = bytes.split(|&byte| byte == b'=');
    let name = parts.next().unwrap_or_default();
    if name.is_empty() || parts.count() != 1 {
        return Err(invalid("Container labels must be in format LABEL=VALUE"));
    }
    let is_valid = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    if !name.iter().all(is_valid) {
        return Err(invalid(
            "Container label names must contain only uppercase letters, numbers and underscore",
        ));
    }
    Ok(())
}

/// A name with a prefix.
fn prefixed(prefix: &str, name: &OsStr) -> OsString {
    let mut prefixed = OsString::from(prefix);
    prefixed.push(name);
    prefixed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Parsed, parse};

    #[track_caller]
    fn options(words: &str) -> Options {
        match parse(words.split_whitespace().map(OsString::from)) {
            Ok(Parsed::Run(options)) => *options,
            other => panic!("{other:?}"),
        }
    }

    fn check(words: &str) -> Result<Config, String> {
        let options = options(words);
        let cid = first(&options).map_err(|error| error.to_string())?.to_owned();
        level(&options).map_err(|error| error.to_string())?;
        rest(cid, options).map_err(|error| error.to_string())
    }

    #[test]
    fn each_check_has_its_text_and_its_turn() {
        let cid = "-c 0123456789abcdef";
        let exec = &format!("{cid} -e -r /tmp");
        let create = &format!("{cid} -u u -r /tmp");
        for (words, text) in [
            ("--log-max-files -1", "log-max-files must be non-negative"),
            (
                "--log-max-files 0 --log-rotate",
                "log-max-files must be at least 1 when log-rotate is enabled",
            ),
            ("--log-level x", "Container ID not provided. Use --cid"),
            (&format!("{cid} --log-level x -e --restore d"), "No such log level x"),
            (
                &format!("{cid} -e --restore d --exec-attach"),
                "Cannot use 'exec' and 'restore' at the same time",
            ),
            (&format!("{cid} --exec-attach"), "Attach can only be specified with exec"),
            (
                &format!("{cid} --exec-attach -e"),
                "Attach can only be specified for a non-legacy exec session",
            ),
            (cid, "Container UUID not provided. Use --cuuid"),
            (&format!("{cid} -e --api-version"), "Container UUID not provided. Use --cuuid"),
            (&format!("{cid} -u u"), "Runtime path not provided. Use --runtime"),
            (
                &format!("{cid} -u u -r /nowhere"),
                "Runtime path /nowhere is not valid: ENOENT: No such file or directory",
            ),
            (exec, "Exec process spec path not provided. Use --exec-process-spec"),
            (
                &format!("{create} --exit-delay=-1"),
                "Delay before invoking exit command must be greater than or equal to 0",
            ),
            (create, "Log driver not provided. Use --log-path"),
            (&format!("{create} -l x --log-tag t"), "k8s-file doesn't support --log-tag"),
            (&format!("{create} -l x --log-label A=b"), "k8s-file doesn't support --log-label"),
            (
                "-c 0123456789ab -u u -r /tmp -l journald",
                "Container ID must be longer than 12 characters",
            ),
            (
                &format!("{create} -l journald --log-label a=b"),
                "Container label names must contain only uppercase letters, numbers and \
                 underscore: a=b",
            ),
            (
                &format!("{create} -l journald --log-label A=b=c"),
                "Container labels must be in format LABEL=VALUE: A=b=c",
            ),
        ] {
            assert_eq!(check(words).unwrap_err(), text, "{words}");
        }
        let refused = check(&format!("{create} -l x --seccomp-notify-socket s")).unwrap_err();
        assert!(refused.starts_with("--seccomp-notify-socket is not supported"), "{refused}");
    }

    #[test]
    fn the_options_make_one_of_four_shapes() {
        let all = "-c id -u u -r /tmp -l none --exec-process-spec s";
        for (words, shape, key) in [
            ("", Shape::Create(Progress::Preparing), Key::Pid),
            ("--api-version 1", Shape::Create(Progress::Preparing), Key::Data),
            ("--restore d", Shape::Restore(Progress::Preparing), Key::Pid),
            ("-e", Shape::ExecApi0(Progress::Preparing), Key::ExitCode),
            ("-e --api-version", Shape::ExecApi1(Progress::Preparing, Attach::No), Key::Data),
            (
                "-e --api-version --exec-attach",
                Shape::ExecApi1(Progress::Preparing, Attach::First),
                Key::Data,
            ),
        ] {
            let config = check(&format!("{all} {words}")).unwrap();
            assert_eq!((config.shape, config.key()), (shape, key), "{words}");
        }
    }

    #[test]
    fn what_is_not_given_has_a_default() {
        let here = std::env::current_dir().unwrap();
        let config = check("-c id -u u -r /tmp -l none").unwrap();
        assert_eq!(config.bundle.as_deref(), Some(here.as_path()));
        assert_eq!(config.pid_file, here.join("pidfile-id"));
        assert_eq!(config.link, Some(("/var/run/crio".into(), "u".into())));
        let config = check("-c id -e --exec-process-spec s -r /tmp -l none").unwrap();
        assert_eq!((config.bundle, config.link), (None, None));
        let config = check("-c id -u u -r /tmp -l passthrough --full-attach -b b").unwrap();
        assert_eq!(config.bundle.as_deref(), Some(here.join("b").as_path()));
        assert!(config.socket_home().is_none() && config.link.is_none());
    }
}
