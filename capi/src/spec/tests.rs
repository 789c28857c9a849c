use std::os::unix::ffi::OsStrExt;

use serde_json::json;

use super::*;
use crate::failure::Code;

fn description() -> Description {
    Description::new("web").unwrap()
}

#[test]
fn json_sets_what_it_names_and_leaves_the_rest() {
    let mut spec = description();
    spec.stop_timeout(1500);
    spec.merge(r#"{"restart": "on-failure", "max_duration_seconds": 90, "tty": true}"#).unwrap();
    spec.command(&[OsStr::new("sh"), OsStr::from_bytes(b"\xff")]).unwrap();
    let (sandbox, command) = spec.parts().unwrap();
    assert_eq!(sandbox.restart.to_string(), "on-failure");
    assert_eq!(sandbox.max_duration.unwrap().as_secs(), 90);
    assert_eq!(sandbox.stop_timeout.as_millis(), 1500);
    let command = command.unwrap();
    assert!(command.get_pty());
    assert_eq!(command.get_args(), [OsStr::from_bytes(b"\xff")]);
}

#[test]
fn options_without_a_setter_are_set_by_json() {
    let mut spec = description();
    let options = r#"{"labels": {"tier": "web"}, "log_off": true, "stop_command": "halt"}"#;
    spec.merge(options).unwrap();
    let (sandbox, _) = spec.parts().unwrap();
    assert_eq!(sandbox.labels.iter().collect::<Vec<_>>(), [("tier", "web")]);
    assert!(sandbox.log_off);
    assert_eq!(sandbox.stop_command.unwrap(), "halt");
    assert!(spec.merge(r#"{"labels": {"not a key": ""}}"#).is_err());
}

#[test]
fn null_is_the_default() {
    let mut spec = description();
    spec.merge(r#"{"restart": "always", "log_max_size": 4096}"#).unwrap();
    spec.merge(r#"{"restart": null}"#).unwrap();
    assert_eq!(spec.parts().unwrap().0.restart.to_string(), "no");
    assert_eq!(spec.parts().unwrap().0.log.retention.max_size, 4096);
}

#[test]
fn json_that_is_not_understood_changes_nothing() {
    let refused = [
        "",
        "[]",
        "{",
        r#"{"restart": "sometimes"}"#,
        r#"{"restart": 3}"#,
        r#"{"stop_signal": "SIGNOTHING"}"#,
        r#"{"stop_timeout_seconds": -1}"#,
        r#"{"log_max_files": 99999999999}"#,
        r#"{"consoles": ["???"]}"#,
        r#"{"command": "true"}"#,
        r#"{"no_such_option": 1}"#,
        r#"{"options": {}}"#,
        r#"{"keep_runs": 5, "restart": "sometimes"}"#,
    ];
    for json in refused {
        let mut spec = description();
        let before = spec.to_json();
        let failure = spec.merge(json).unwrap_err();
        assert_eq!(failure.code, Code::Invalid, "{json}");
        assert!(!failure.message.contains('\n'), "{}", failure.message);
        assert_eq!(spec.to_json(), before, "{json}");
    }
}

#[test]
fn descriptors_are_refused() {
    for json in [r#"{"tty": true, "preserve_fds": [3]}"#, r#"{"preserve_fds": []}"#] {
        let mut spec = description();
        let before = spec.to_json();
        let failure = spec.merge(json).unwrap_err();
        assert_eq!(failure.code, Code::Invalid);
        assert_eq!(
            failure.message,
            r#""preserve_fds" can't be set: descriptors can't be given in JSON"#
        );
        assert_eq!(spec.to_json(), before);
    }
    description().merge(r#"{"preserve_fds": null}"#).unwrap();
}

#[test]
fn what_is_read_back_can_be_set_again() {
    let mut spec = description();
    spec.command(&[OsStr::new("true")]).unwrap();
    spec.stop_signal(Signal::INT);
    spec.input(2).unwrap();
    spec.merge(r#"{"log_rate": 4096, "cgroup": "/sys/fs/cgroup/x", "keep_runs": 7}"#).unwrap();
    let mut options = spec.to_json();
    let object = options.as_object_mut().unwrap();
    object.retain(|key, _| is_option(key));
    let mut other = description();
    other.merge(&options.to_string()).unwrap();
    let (one, two) = (spec.parts().unwrap(), other.parts().unwrap());
    assert_eq!((one.0.to_owned().config_last_modified(two.0.config_last_modified), one.1), two);
    assert_eq!(options["stdin"], json!("attached"));
}

#[test]
fn the_environment_is_changed_and_not_written() {
    let mut spec = description();
    spec.command(&[OsStr::new("true")]).unwrap();
    spec.env(OsStr::new("SECRET"), Some(OsStr::new("one"))).unwrap();
    spec.env(OsStr::new("SECRET"), Some(OsStr::new("two"))).unwrap();
    spec.env(OsStr::new("HOME"), None).unwrap();
    assert!(spec.env(OsStr::new("A=B"), None).is_err());
    assert!(spec.env(OsStr::new(""), None).is_err());
    let command = spec.parts().unwrap().1.unwrap();
    assert_eq!(command.get_envs(), [("SECRET".into(), Some("two".into())), ("HOME".into(), None)]);
    assert!(!spec.to_json().to_string().contains("two"));
}
