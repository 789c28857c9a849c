//! Round trips of the JSON form, and the forms of earlier versions.

use serde_json::Map;

use super::*;
use crate::child::{PassedDescriptor, Resource, ResourceLimit};
use crate::fuzz::{mutate, rounds};
use crate::logfile::Format;
use crate::monitor::Console;
use crate::monitor::{Forward, Input, OnLogError, OverRate, Restart};

/// A spec in which no field has its default.
fn everything() -> Spec {
    let odd = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let mut sandbox = Sandbox::new("web", "/log").unwrap().config_file("config".parse().unwrap());
    sandbox.log = LogOptions {
        retention: Retention {
            max_size: 7,
            max_files: 3,
            max_age: Some(Duration::from_millis(1_500)),
            rotate_every: Some(Duration::from_secs(60)),
            total_size: Some(1 << 40),
        },
        format: Format::Cri,
        index: false,
    };
    sandbox.log_off = true;
    sandbox.rotate_command = Some(odd(b"gzip '\xff'"));
    sandbox.journal = true;
    sandbox.on_log_error = OnLogError::Drop;
    let rate = LogRate::new(NonZeroU64::new(9).unwrap());
    sandbox.log_rate = Some(LogRate { burst: 7, over: OverRate::Drop, ..rate });
    sandbox = sandbox.label("app", "\"web\"=ä").unwrap().label("x.y/z", "").unwrap();
    sandbox.rootfs = Some(Rootfs::Overlayfs(vec!["/a:b".into(), "/c".into()]));
    sandbox.forward = Forward::Drop;
    sandbox.input = Input::Forward;
    sandbox.stop_signal = Signal::INT;
    sandbox.stop_command = Some(odd(b"down '\xff'"));
    sandbox.stop_timeout = Duration::from_millis(2500);
    sandbox.restart = Restart::OnFailure { max: Some(3) };
    sandbox.max_duration = Some(Duration::from_secs(60));
    sandbox.idle_timeout = Some(Duration::from_millis(100));
    sandbox.leave_descendants = true;
    sandbox.cgroup = Some("/sys/fs/cgroup/web".into());
    sandbox.consoles =
        vec!["serial=pty".parse().unwrap(), Console::fifo("out".parse().unwrap(), odd(b"/\xff"))];
    sandbox.interactive = Some("out".parse().unwrap());
    sandbox.keep_runs = 70;
    let command = Command::new("printf").args([odd(b"a\xff\n")]).current_dir(odd(b"/\xfe"));
    let mut command = command.pty(true).pty_size(33, 99).term("vt100").umask(0o27);
    command = command.uid(1000).gid(100).groups([7, 9]).oom_score_adj(-7);
    command = command.rlimit(Resource::NOFILE, ResourceLimit::new(Some(5), None));
    // A descriptor that was read from a record.
    let attributes = command.attributes.get_or_insert_default();
    attributes.pass(PassedDescriptor { number: 5, descriptor: None });
    Spec::new(sandbox, Some(command), json!({ "pid_file": "/run/web.pid" }))
}

/// Reads the value for the sandbox of `of`.
fn read_back(value: &Value, of: &Spec) -> Spec {
    let Sandbox { name, config_file, config_last_modified, .. } = of.sandbox.clone();
    let mut spec = Spec::from_json(value, name, config_file).unwrap();
    spec.sandbox.config_last_modified = config_last_modified;
    spec
}

#[test]
fn a_spec_survives_a_round_trip() {
    let spec = everything();
    assert_eq!(read_back(&spec.to_json(), &spec), spec);
    let text = spec.to_json().to_string();
    assert_eq!(read_back(&serde_json::from_str(&text).unwrap(), &spec), spec);
}

#[test]
fn every_key_is_written_and_read() {
    let spec = everything();
    let Value::Object(written) = spec.to_json() else { panic!("not an object") };
    for key in written.keys() {
        let mut without: Map<String, Value> = written.clone();
        let value = without.remove(key).unwrap();
        assert!(!value.is_null(), "{key} has its default");
        let read = read_back(&Value::Object(without), &spec);
        assert!(key == "version" || read != spec, "{key} is not read");
    }
}

#[test]
fn the_form_of_version_3_does_not_change() {
    let mut expected = json!({
        "version": 3, "command": ["printf", { "bytes": [97, 255, 10] }],
        "directory": { "bytes": [47, 254] }, "tty": true,
        "labels": { "app": "\"web\"=ä", "x.y/z": "" },
        "rootfs": { "overlayfs": ["/a:b", "/c"] }, "log_dir": "/log", "log_off": true, "log_max_size": 7,
        "log_max_files": 3, "log_max_age_seconds": 1.5, "log_rotate_every_seconds": 60.0,
        "log_total_size": 1_u64 << 40, "log_rotate_command": { "bytes": b"gzip '\xff'" },
        "log_format": "cri", "log_index": false, "journal": true, "log_rate": 9, "log_burst": 7,
        "over_rate": "drop", "on_log_error": "drop", "forward": "drop", "stdin": "forward",
        "consoles": ["serial=pty", { "bytes": b"out=fifo:/\xff" }], "interactive": "out",
        "stop_signal": "SIGINT", "stop_command": { "bytes": b"down '\xff'" },
        "stop_timeout_seconds": 2.5, "restart": "on-failure:3",
        "max_duration_seconds": 60.0, "idle_timeout_seconds": 0.1, "leave_descendants": true,
        "cgroup": "/sys/fs/cgroup/web", "keep_runs": 70, "options": { "pid_file": "/run/web.pid" },
    });
    let attributes = json!({
        "preserve_fds": [5], "uid": 1000, "gid": 100, "groups": [7, 9], "umask": "0027",
        "ulimits": { "nofile": [5, null] }, "oom_score_adj": -7, "tty_size": [33, 99],
        "term": "vt100",
    });
    let object = expected.as_object_mut().unwrap();
    object.extend(attributes.as_object().unwrap().clone());
    assert_eq!(everything().to_json(), expected);
}

#[test]
fn labels_of_another_version_that_are_not_allowed_are_not_read() {
    let spec = everything();
    let mut value = spec.to_json();
    value["labels"] = json!({ "a b": "x", "": "y", "n": 1, "line": "a\nb", "app": "web" });
    let labels = read_back(&value, &spec).sandbox.labels;
    assert_eq!(labels.iter().collect::<Vec<_>>(), [("app", "web")]);
    for value in [json!([]), json!("app"), json!(null)] {
        let value = json!({ "version": 3, "labels": value });
        assert!(read_back(&value, &spec).sandbox.labels.is_empty());
    }
}

#[test]
fn the_environment_is_not_written() {
    let spec = everything();
    let command = spec.command.clone().unwrap().env("SECRET", "x").env_remove("HOME");
    let secret = Spec { command: Some(command), ..spec.clone() };
    assert_eq!(secret.to_json(), spec.to_json());
}

#[test]
fn a_replacement_character_that_was_given_is_exact() {
    let command = Some(Command::new("echo").args(["\u{fffd}"]));
    let spec = Spec { command, ..everything() };
    assert_eq!(read_back(&spec.to_json(), &spec), spec);
}

#[test]
fn a_command_with_an_attribute_that_can_not_be_read_is_none() {
    let spec = everything();
    for (key, value) in [
        ("preserve_fds", json!(["5"])),
        ("uid", json!(-1)),
        ("uid", json!(1_u64 << 32)),
        ("gid", json!("root")),
        ("groups", json!([7, null])),
        ("umask", json!("1000")),
        ("umask", json!(22)),
        ("ulimits", json!({ "files": [1, 1] })),
        ("ulimits", json!({ "core": [1] })),
        ("oom_score_adj", json!(40_000)),
        ("tty_size", json!([24, 80, 1])),
        ("term", json!(1)),
    ] {
        let mut written = spec.to_json();
        written[key] = value.clone();
        assert_eq!(read_back(&written, &spec).command, None, "{key}: {value}");
    }
}

#[test]
fn a_spec_of_an_earlier_version_is_read_and_marked_if_it_is_not_exact() {
    let old = |word: &str| {
        let value = json!({
            "command": ["echo", word], "directory": "/tmp", "tty": false,
            "rootfs": "overlayfs:/a:/b", "log_dir": "/log", "log_max_size": 9,
            "log_max_files": 2, "on_log_error": "pause", "forward": "block",
            "stdin": "null", "stop_signal": "signal 40", "stop_timeout_seconds": 1.5,
        });
        read_back(&value, &everything())
    };
    let Spec { sandbox, options, exact, .. } = old("hello");
    assert!(exact);
    assert_eq!(sandbox.rootfs, Some(Rootfs::Overlayfs(vec!["/a".into(), "/b".into()])));
    assert_eq!(sandbox.stop_signal.number(), 40);
    assert_eq!(sandbox.stop_timeout, Duration::from_millis(1500));
    assert_eq!((sandbox.log.retention.max_size, sandbox.log.retention.max_files), (9, 2));
    assert_eq!((sandbox.restart, &options), (Restart::No, &Value::Null));
    assert!(sandbox.log.index);
    assert!(!old("\u{fffd}").exact);
}

#[test]
fn a_real_time_signal_and_an_unlimited_timeout_survive_a_round_trip() {
    let mut spec = everything();
    spec.sandbox.stop_signal = "SIGRTMIN+3".parse().unwrap_or(Signal::HUP);
    spec.sandbox.stop_timeout = Duration::MAX;
    let written = spec.to_json();
    assert!(!written["stop_signal"].as_str().unwrap().contains(' '), "{written}");
    assert_eq!(read_back(&written, &spec), spec);
}

#[test]
fn the_child_of_a_host_has_no_command() {
    let spec = Spec { command: None, ..everything() };
    assert_eq!(read_back(&spec.to_json(), &spec), spec);
}

#[test]
fn fuzzed_specs_are_read_to_what_is_written_again() {
    let text = everything().to_json().to_string();
    rounds(|random| {
        let mut bytes = text.clone().into_bytes();
        mutate(random, &mut bytes, &[b"null", b"{\"bytes\":[255]}", b"1e999", b"-1", b"\\ud800"]);
        let Ok(value) = serde_json::from_slice::<Value>(&bytes) else { return };
        let (name, config_file) = (Name::new("web").unwrap(), Name::new("c").unwrap());
        let Some(spec) = Spec::from_json(&value, name, config_file) else { return };
        let again = read_back(&spec.to_json(), &spec);
        assert_eq!(again.to_json(), spec.to_json());
        assert_eq!(again.sandbox, spec.sandbox);
    });
}
