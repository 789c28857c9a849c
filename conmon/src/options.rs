//! The command line, in the grammar of GLib's option parser.
//!
//! - `--name VALUE`, `--name=VALUE`, `-n VALUE`. Short options may be joined (`-tic ID`, `-cti ID`);
//!   a value can't be joined to its option: each letter of `-nweb` is an option.
//! - A value is taken whatever it looks like, also an empty one and one that begins with `-`.
//! - Long names are not abbreviated. An option given twice: the last one counts; lists collect.
//! - A word that is no option is ignored, and so is a value after `=` at a flag: `--api-version`
//!   is a flag although every engine writes `--api-version 1`. `--` ends the options.
//! - Integers are read as strtol(3) does with base 0.
//!
//! Values are bytes. (GLib refuses those that the locale's charset does not have.)

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The options as they were given. Nothing is checked yet but the form of numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub api_version: bool,
    pub bundle: Option<OsString>,
    pub cid: Option<OsString>,
    pub conmon_pidfile: Option<OsString>,
    pub container_pidfile: Option<OsString>,
    pub cuuid: Option<OsString>,
    pub exec: bool,
    pub exec_attach: bool,
    pub exec_process_spec: Option<OsString>,
    pub exit_args: Vec<OsString>,
    pub exit_command: Option<OsString>,
    pub exit_delay: i32,
    pub exit_dir: Option<OsString>,
    pub full_attach: bool,
    pub leave_stdin_open: bool,
    pub log_allowlist_dirs: Vec<OsString>,
    pub log_global_size_max: i64,
    pub log_labels: Vec<OsString>,
    pub log_level: Option<OsString>,
    /// 1 if it is not given.
    pub log_max_files: Option<i32>,
    pub log_paths: Vec<OsString>,
    pub log_rotate: bool,
    pub log_size_max: i64,
    pub log_tag: Option<OsString>,
    pub name: Option<OsString>,
    pub no_container_partial_message: bool,
    pub no_new_keyring: bool,
    pub no_pivot: bool,
    pub no_sync_log: bool,
    pub persist_dir: Option<OsString>,
    pub replace_listen_pid: bool,
    pub restore: Option<OsString>,
    pub runtime: Option<OsString>,
    pub runtime_args: Vec<OsString>,
    pub runtime_opts: Vec<OsString>,
    pub sdnotify_socket: Option<OsString>,
    pub seccomp_notify_plugins: Option<OsString>,
    pub seccomp_notify_socket: Option<OsString>,
    pub socket_dir: Option<OsString>,
    pub stdin: bool,
    pub sync: bool,
    pub syslog: bool,
    pub systemd_cgroup: bool,
    pub terminal: bool,
    pub timeout: i32,
    pub version: bool,
}

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    Run(Box<Options>),
    Help,
}

/// A command line that can't be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("Unknown option {}", .0.display())]
    Unknown(OsString),
    #[error("Missing argument for {0}")]
    Missing(String),
    #[error("Error parsing option -{0}: one option of a group takes a value")]
    SecondValue(char),
    #[error("Cannot parse integer value \u{201c}{}\u{201d} for {name}", .value.display())]
    Integer { name: String, value: OsString },
    #[error("Integer value \u{201c}{}\u{201d} for {name} out of range", .value.display())]
    OutOfRange { name: String, value: OsString },
}

/// The field of an option, by its kind.
enum Field {
    Flag(fn(&mut Options) -> &mut bool),
    Value(fn(&mut Options) -> &mut Option<OsString>),
    List(fn(&mut Options) -> &mut Vec<OsString>),
    Int(fn(&mut Options) -> &mut i32),
    OptionalInt(fn(&mut Options) -> &mut Option<i32>),
    Int64(fn(&mut Options) -> &mut i64),
}

/// An option of the command line.
struct Entry {
    long: &'static str,
    short: Option<char>,
    field: Field,
    /// Empty for an option that `--help` does not list.
    help: &'static str,
}

const fn entry(long: &'static str, short: Option<char>, field: Field, help: &'static str) -> Entry {
    Entry { long, short, field, help }
}

use Field::{Flag, Int, Int64, List, OptionalInt, Value};

#[rustfmt::skip]
const ENTRIES: &[Entry] = &[
    entry("api-version", None, Flag(|o| &mut o.api_version), "Use the newer messages"),
    entry("bundle", Some('b'), Value(|o| &mut o.bundle), "The bundle, home of the sockets"),
    entry("cid", Some('c'), Value(|o| &mut o.cid), "The id of the container"),
    entry("conmon-pidfile", Some('P'), Value(|o| &mut o.conmon_pidfile), "A file for this program's own pid"),
    entry("container-pidfile", Some('p'), Value(|o| &mut o.container_pidfile), "The file that the runtime writes the container's pid to"),
    entry("pidfile", None, Value(|o| &mut o.container_pidfile), ""),
    entry("cuuid", Some('u'), Value(|o| &mut o.cuuid), "The name of the link below --socket-dir-path"),
    entry("exec", Some('e'), Flag(|o| &mut o.exec), "Run a command in a running container"),
    entry("exec-attach", None, Flag(|o| &mut o.exec_attach), "Wait for the caller to attach"),
    entry("exec-process-spec", None, Value(|o| &mut o.exec_process_spec), "The process to run, for the runtime"),
    entry("exit-command", None, Value(|o| &mut o.exit_command), "A command to run at the very end"),
    entry("exit-command-arg", None, List(|o| &mut o.exit_args), "An argument of it; may be repeated"),
    entry("exit-delay", None, Int(|o| &mut o.exit_delay), "Seconds to wait before it"),
    entry("exit-dir", None, Value(|o| &mut o.exit_dir), "The directory of the exit file"),
    entry("full-attach", None, Flag(|o| &mut o.full_attach), "Make no link to the attach socket"),
    entry("leave-stdin-open", None, Flag(|o| &mut o.leave_stdin_open), "Keep the container's input open when a client ends its own"),
    entry("log-allowlist-dir", None, List(|o| &mut o.log_allowlist_dirs), "A directory that a rotated log may lie in; may be repeated"),
    entry("log-global-size-max", None, Int64(|o| &mut o.log_global_size_max), "Bytes after which the log takes no more"),
    entry("log-label", None, List(|o| &mut o.log_labels), "A further field NAME=VALUE for journald; may be repeated"),
    entry("log-level", None, Value(|o| &mut o.log_level), "error, warning, info, debug or trace"),
    entry("log-max-files", None, OptionalInt(|o| &mut o.log_max_files), "How many rotated logs are kept"),
    entry("log-path", Some('l'), List(|o| &mut o.log_paths), "A log: DRIVER:PATH; may be repeated"),
    entry("log-rotate", None, Flag(|o| &mut o.log_rotate), "Rotate a full log instead of replacing it"),
    entry("log-size-max", None, Int64(|o| &mut o.log_size_max), "The size of a full log in bytes"),
    entry("log-tag", None, Value(|o| &mut o.log_tag), "A tag for journald"),
    entry("name", Some('n'), Value(|o| &mut o.name), "The name of the container"),
    entry("no-container-partial-message", None, Flag(|o| &mut o.no_container_partial_message), "Leave out that field for journald"),
    entry("no-new-keyring", None, Flag(|o| &mut o.no_new_keyring), "Passed to the runtime"),
    entry("no-pivot", None, Flag(|o| &mut o.no_pivot), "Passed to the runtime"),
    entry("no-sync-log", None, Flag(|o| &mut o.no_sync_log), "Do not call fsync on the log at the end"),
    entry("persist-dir", Some('0'), Value(|o| &mut o.persist_dir), "The directory of the files exit and oom"),
    entry("replace-listen-pid", None, Flag(|o| &mut o.replace_listen_pid), "Replace LISTEN_PID whatever it is"),
    entry("restore", None, Value(|o| &mut o.restore), "Restore the container from this image"),
    entry("restore-arg", None, List(|o| &mut o.runtime_opts), ""),
    entry("runtime", Some('r'), Value(|o| &mut o.runtime), "The path of the OCI runtime"),
    entry("runtime-arg", None, List(|o| &mut o.runtime_args), "An argument before its subcommand; may be repeated"),
    entry("runtime-opt", None, List(|o| &mut o.runtime_opts), "An argument after its subcommand; may be repeated"),
    entry("sdnotify-socket", None, Value(|o| &mut o.sdnotify_socket), "The socket of the service manager"),
    entry("seccomp-notify-plugins", None, Value(|o| &mut o.seccomp_notify_plugins), ""),
    entry("seccomp-notify-socket", None, Value(|o| &mut o.seccomp_notify_socket), ""),
    entry("socket-dir-path", None, Value(|o| &mut o.socket_dir), "The directory of the link to the attach socket"),
    entry("stdin", Some('i'), Flag(|o| &mut o.stdin), "The container has an input"),
    entry("sync", None, Flag(|o| &mut o.sync), "Stay in the foreground"),
    entry("syslog", None, Flag(|o| &mut o.syslog), "Log to the system log as well"),
    entry("systemd-cgroup", Some('s'), Flag(|o| &mut o.systemd_cgroup), "Passed to the runtime"),
    entry("terminal", Some('t'), Flag(|o| &mut o.terminal), "The container has a terminal"),
    entry("timeout", Some('T'), Int(|o| &mut o.timeout), "Seconds after which the container is killed"),
    entry("version", None, Flag(|o| &mut o.version), "Print the version"),
];

/// Reads the words after the program's name.
///
/// # Errors
///
/// The first option that can't be read.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Parsed, ParseError> {
    let mut options = Options { log_global_size_max: -1, log_size_max: -1, ..Options::default() };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"--" => break,
            b"-h" | b"-?" | b"--help" | b"--help-all" => return Ok(Parsed::Help),
            [b'-', b'-', long @ ..] => read_long(&mut options, &word, long, &mut words)?,
            [b'-', group @ ..] if !group.is_empty() => {
                read_group(&mut options, &word, group, &mut words)?;
            }
            _ => {}
        }
    }
    Ok(Parsed::Run(Box::new(options)))
}

fn read_long(
    options: &mut Options,
    word: &OsStr,
    long: &[u8],
    rest: &mut impl Iterator<Item = OsString>,
) -> Result<(), ParseError> {
    let mut parts = long.splitn(2, |&byte| byte == b'=');
    let (name, value) = (parts.next().unwrap_or_default(), parts.next());
    let entry = ENTRIES.iter().find(|entry| entry.long.as_bytes() == name);
    let entry = entry.ok_or_else(|| ParseError::Unknown(word.to_owned()))?;
    let given = || value.map(|value| OsString::from_vec(value.to_vec()));
    entry.set(options, &format!("--{}", entry.long), || given().or_else(|| rest.next()))
}

/// A word of short options. At most one of them takes a value, which is the next word, wherever the
/// option stands in the group.
fn read_group(
    options: &mut Options,
    word: &OsStr,
    group: &[u8],
    rest: &mut impl Iterator<Item = OsString>,
) -> Result<(), ParseError> {
    let mut value_taken = false;
    for &letter in group {
        let entry = ENTRIES.iter().find(|entry| entry.short == Some(char::from(letter)));
        let entry = entry.ok_or_else(|| ParseError::Unknown(word.to_owned()))?;
        let takes_value = !matches!(entry.field, Flag(_));
        if takes_value && value_taken {
            return Err(ParseError::SecondValue(char::from(letter)));
        }
        value_taken |= takes_value;
        entry.set(options, &format!("-{}", char::from(letter)), || rest.next())?;
    }
    Ok(())
}

impl Entry {
    /// Sets the option. `value` is called if it takes one.
    fn set(
        &self,
        options: &mut Options,
        name: &str,
        value: impl FnOnce() -> Option<OsString>,
    ) -> Result<(), ParseError> {
        let value = || value().ok_or_else(|| ParseError::Missing(name.to_owned()));
        match &self.field {
            Flag(field) => *field(options) = true,
            Value(field) => *field(options) = Some(value()?),
            List(field) => field(options).push(value()?),
            Int(field) => *field(options) = integer(name, value()?)?,
            OptionalInt(field) => *field(options) = Some(integer(name, value()?)?),
            Int64(field) => *field(options) = integer(name, value()?)?,
        }
        Ok(())
    }
}

/// An integer in the form of strtol(3) with base 0: blanks, a sign, and decimal, octal (`010`) or
/// hexadecimal (`0x10`) digits.
fn integer<T: TryFrom<i128>>(name: &str, value: OsString) -> Result<T, ParseError> {
    let invalid = |value| ParseError::Integer { name: name.to_owned(), value };
    let Some(text) = value.to_str() else { return Err(invalid(value)) };
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..).unwrap_or_default()),
        Some(b'+') => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (radix, digits) = match (hexadecimal, digits.strip_prefix('0')) {
        (Some(digits), _) => (16, digits),
        (None, Some(digits)) if !digits.is_empty() => (8, digits),
        (None, _) => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(invalid(value));
    }
    // Digits only, so an error means that there are too many.
    let number = i128::from_str_radix(digits, radix).ok();
    let number = number.map(|number| if negative { -number } else { number });
    let in_range = number.and_then(|number| T::try_from(number).ok());
    in_range.ok_or_else(|| ParseError::OutOfRange { name: name.to_owned(), value })
}

/// The text of `--help`.
pub fn help() -> String {
    let mut text = String::from("Usage:\n  conmon [OPTION\u{2026}]\n\nOptions:\n");
    text.push_str("  -h, --help                         Show this help\n");
    for Entry { long, short, field, help } in ENTRIES.iter().filter(|it| !it.help.is_empty()) {
        let short = short.map_or(String::from("    "), |short| format!("-{short}, "));
        let value = match field {
            Flag(_) => "",
            Value(_) | List(_) => "=VALUE",
            Int(_) | OptionalInt(_) | Int64(_) => "=N",
        };
        let names = format!("{short}--{long}{value}");
        text.push_str(&format!("  {names:<34} {help}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn options(words: &[&str]) -> Options {
        match parse(words.iter().map(OsString::from)) {
            Ok(Parsed::Run(options)) => *options,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    #[track_caller]
    fn error(words: &[&str]) -> String {
        parse(words.iter().map(OsString::from)).unwrap_err().to_string()
    }

    fn list(values: &[&str]) -> Vec<OsString> {
        values.iter().map(OsString::from).collect()
    }

    #[test]
    fn a_value_is_the_next_word_or_after_an_equals_sign() {
        for words in
            [&["--name", "web"][..], &["--name=web"], &["-n", "web"], &["--name", "x", "-n", "web"]]
        {
            assert_eq!(options(words).name, Some("web".into()), "{words:?}");
        }
        assert_eq!(options(&["--name=a=b"]).name, Some("a=b".into()));
    }

    #[test]
    fn short_options_may_be_joined_and_one_of_them_takes_the_next_word() {
        for group in ["-tic", "-cti", "-tci"] {
            let read = options(&[group, "ID", "-s"]);
            assert_eq!((read.terminal, read.stdin, read.cid), (true, true, Some("ID".into())));
            assert!(read.systemd_cgroup);
        }
        assert!(error(&["-cn", "X", "Y"]).starts_with("Error parsing option -n"));
        assert_eq!(error(&["-nweb", "x"]), "Unknown option -nweb");
        assert_eq!(error(&["-n=web", "x"]), "Unknown option -n=web");
        assert!(error(&["-T5", "-c", "x"]).starts_with("Cannot parse integer value"));
    }

    #[test]
    fn a_value_may_look_like_an_option_or_be_empty() {
        let words = ["--runtime-arg", "--log", "--exit-command-arg", "--", "--exit-command-arg="];
        let read = options(&[&words[..], &["--exit-command-arg", "", "-n", "-t"]].concat());
        assert_eq!(read.runtime_args, list(&["--log"]));
        assert_eq!(read.exit_args, list(&["--", "", ""]));
        assert_eq!((read.name, read.terminal), (Some("-t".into()), false));
    }

    #[test]
    fn words_that_are_no_options_are_ignored() {
        let read = options(&["--api-version", "1", "-", "x", "-e", "--", "-t", "--unknown"]);
        assert_eq!((read.api_version, read.exec, read.terminal), (true, true, false));
        let read = options(&["--api-version=1", "--no-sync-log=false", "--sync="]);
        assert_eq!((read.api_version, read.no_sync_log, read.sync), (true, true, true));
    }

    #[test]
    fn lists_collect_and_of_other_options_the_last_one_counts() {
        let read = options(&[
            "--runtime-opt",
            "a",
            "--restore-arg=b",
            "-l",
            "x",
            "--log-path",
            "journald",
        ]);
        assert_eq!(read.runtime_opts, list(&["a", "b"]));
        assert_eq!(read.log_paths, list(&["x", "journald"]));
        let read = options(&["-p", "one", "--pidfile", "two", "-T", "1", "--timeout=2"]);
        assert_eq!((read.container_pidfile, read.timeout), (Some("two".into()), 2));
        assert_eq!(options(&["-0", "dir"]).persist_dir, Some("dir".into()));
    }

    #[test]
    fn integers_are_decimal_octal_or_hexadecimal() {
        for (text, number) in [
            ("10", 10),
            ("0", 0),
            ("-3", -3),
            ("+4", 4),
            (" 7", 7),
            ("0x10", 16),
            ("0XfF", 255),
            ("-0x2", -2),
            ("010", 8),
            ("00", 0),
            ("2147483647", i32::MAX),
        ] {
            assert_eq!(options(&["-T", text]).timeout, number, "{text}");
        }
        assert_eq!(options(&["--log-size-max", "9223372036854775807"]).log_size_max, i64::MAX);
        let read = options(&[]);
        assert_eq!((read.log_size_max, read.log_global_size_max, read.exit_delay), (-1, -1, 0));
        assert_eq!(read.log_max_files, None);
    }

    #[test]
    fn an_integer_that_can_not_be_read_is_an_error() {
        for text in ["", " ", "x", "1x", "08", "0x", "-", "1.5", "1 "] {
            let expected =
                format!("Cannot parse integer value \u{201c}{text}\u{201d} for --timeout");
            assert_eq!(error(&["--timeout", text]), expected);
        }
        for words in [
            &["-T", "2147483648"][..],
            &["--exit-delay=-2147483649"],
            &["--log-size-max", "9223372036854775808"],
            &["--log-max-files", "99999999999999999999999999999999999999999999999"],
        ] {
            assert!(error(words).ends_with("out of range"), "{}", error(words));
        }
        let word = OsString::from_vec(vec![b'1', 0xff]);
        assert!(matches!(parse(["-T".into(), word]), Err(ParseError::Integer { .. })));
    }

    #[test]
    fn an_unknown_or_abbreviated_option_is_an_error() {
        assert_eq!(error(&["--unknown"]), "Unknown option --unknown");
        assert_eq!(error(&["--log-pat", "x"]), "Unknown option --log-pat");
        assert_eq!(error(&["--unknown=x"]), "Unknown option --unknown=x");
        assert_eq!(error(&["-tx"]), "Unknown option -tx");
        assert_eq!(error(&["--cid"]), "Missing argument for --cid");
        assert_eq!(error(&["-tc"]), "Missing argument for -c");
    }

    #[test]
    fn values_are_any_bytes() {
        let bytes = OsString::from_vec(vec![b'a', 0xff, 0xe4, b'=', 0x80]);
        let joined = OsString::from_vec([b"--name=", bytes.as_bytes()].concat());
        let Ok(Parsed::Run(read)) = parse(["-c".into(), bytes.clone(), joined]) else { panic!() };
        assert_eq!((read.cid, read.name), (Some(bytes.clone()), Some(bytes.clone())));
        // A word that is no option.
        assert!(parse([bytes]).is_ok());
    }

    #[test]
    fn help_comes_at_once_and_the_version_after_the_whole_line() {
        assert_eq!(parse(["--help".into(), "--unknown".into()]), Ok(Parsed::Help));
        assert_eq!(parse(["-h".into()]), Ok(Parsed::Help));
        assert_eq!(error(&["--version", "--unknown"]), "Unknown option --unknown");
        assert!(options(&["--version"]).version);
        assert!(help().contains("  -c, --cid=VALUE "));
        assert!(!help().contains("restore-arg"));
    }
}
