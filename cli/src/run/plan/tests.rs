//! Every option of `vmon run` is part of the plan that the supervisor receives.

use clap::{Args, FromArgMatches};

use super::*;
use crate::fuzz::{mutate, rounds};
use crate::run::RunArgs;

/// The plan of `vmon run OPTIONS -- printf x`.
fn plan(options: &[&str]) -> Plan {
    let command = RunArgs::augment_args(clap::Command::new("run"));
    let words = ["run", "--state-dir", "/s", "--config-last-modified", "2026-01-31T12:00:00Z"];
    let words = words.iter().chain(options).chain(&["--", "printf", "x"]);
    let matches = command.args_override_self(true).try_get_matches_from(words).unwrap();
    RunArgs::from_arg_matches(&matches).unwrap().into_plan().unwrap()
}

/// Options that change the plan: clap's id, and the arguments.
const OPTIONS: &[(&str, &[&str])] = &[
    ("always_tty", &["-t"]),
    ("cgroup", &["--cgroup", "/sys/fs/cgroup/x"]),
    ("config_file", &["--config-file", "other"]),
    ("config_last_modified", &["--config-last-modified", "2026-01-31T12:00:00.5Z"]),
    ("consoles", &["--console", "a=listen:sock"]),
    ("cwd", &["--cwd", "/"]),
    ("db", &["--db", "/d/x.db"]),
    ("env", &["--env", "A=b"]),
    ("exit_file", &["--exit-file", "/tmp/exit"]),
    ("forward_output", &["--forward-output=false"]),
    ("forward_overflow", &["--forward-overflow", "drop"]),
    ("group_add", &["--group-add", "7"]),
    ("idle_timeout", &["--idle-timeout", "7ms"]),
    ("interactive", &["--interactive", "stdio"]),
    ("keep_runs", &["--keep-runs", "7"]),
    ("labels", &["--label", "app=a=b"]),
    ("leave_descendants", &["--leave-descendants"]),
    ("log_dir", &["--log-dir", "/l"]),
    ("log_format", &["--log-format", "json"]),
    ("log_index", &["--log-index", "off"]),
    ("log_level", &["--log-level", "trace"]),
    ("log_max_age", &["--log-max-age", "7s"]),
    ("log_max_files", &["--log-max-files", "7"]),
    ("log_max_size", &["--log-max-size", "7K"]),
    ("log_rate", &["--log-rate", "7K/s,burst=8K"]),
    ("log_rotate_command", &["--log-rotate-command", "gzip"]),
    ("log_rotate_every", &["--log-rotate-every", "7m"]),
    ("log_switch", &["--log", "off"]),
    ("log_total_size", &["--log-total-size", "7M"]),
    ("max_duration", &["--max-duration", "7h"]),
    ("metrics_interval", &["--metrics-interval", "7s"]),
    ("name", &["--name", "web"]),
    ("native_rootfs", &["--native-rootfs", "root"]),
    ("no_forward", &["--no-forward"]),
    ("on_exit", &["--on-exit", "true"]),
    ("on_log_error", &["--on-log-error", "drop"]),
    ("oom_score_adj", &["--oom-score-adj", "-7"]),
    ("over_rate", &["--over-rate", "drop"]),
    ("overlayfs_layer", &["--overlayfs-layer", "/a", "/b"]),
    ("pid_file", &["--pid-file", "/tmp/pid"]),
    ("restart", &["--restart", "on-failure:7"]),
    ("runtime_dir", &["--runtime-dir", "/r"]),
    ("state_dir", &["--state-dir", "/t"]),
    ("stdin", &["--stdin", "null"]),
    ("stop_command", &["--stop-command", "poweroff"]),
    ("stop_signal", &["--stop-signal", "INT"]),
    ("stop_timeout", &["--stop-timeout", "7s"]),
    ("tty", &["--tty", "always"]),
    ("tty_size", &["--tty-size", "33x99"]),
    ("ulimit", &["--ulimit", "core=0:-1"]),
    ("umask", &["--umask", "027"]),
    ("user", &["--user", "1000:100"]),
    ("detach", &["--detach"]),
];

/// The arguments that are not options, the option that selects the default, the one that selects the
/// process that executes the plan, and the one whose descriptors this process would need.
const OTHERS: [&str; 4] = ["command", "no_tty", "preserve_fd", "via"];

#[test]
fn every_option_is_in_the_plan_that_is_handed_over() {
    for &(id, options) in OPTIONS {
        // Without -T the default depends on whether this test's stdin and stdout are a terminal.
        let others: &[&str] = match id {
            "interactive" => &["-T", "--console", "pty"],
            "over_rate" => &["-T", "--log-rate", "7K/s"],
            "tty_size" => &["-t"],
            _ => &["-T"],
        };
        let plan_with = match id {
            // They conflict with -T.
            "always_tty" | "tty" => plan(options),
            _ => plan(&[others, options].concat()),
        };
        assert_ne!(plan_with.encode(), plan(others).encode(), "{id}");
        assert_eq!(Plan::decode(&plan_with.encode()).as_ref(), Some(&plan_with), "{id}");
    }
    let command = RunArgs::augment_args(clap::Command::new("run"));
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        let known = OTHERS.contains(&id) || OPTIONS.iter().any(|(known, _)| *known == id);
        assert!(known, "the option {id} is missing in OPTIONS");
    }
}

#[test]
fn a_plan_keeps_every_byte_of_paths_words_and_the_environment() {
    use std::os::unix::ffi::OsStringExt;
    let odd = || OsString::from_vec(vec![b'/', 0xff, b'\n']);
    let mut plan = plan(&["--env", "A=b"]);
    plan.places = Places::new(Path::new(&odd()), None).unwrap();
    plan.sandbox.log_dir = odd().into();
    plan.command = plan.command.args([odd()]).env(odd(), odd()).env_remove("HOME");
    let encoded = plan.encode();
    assert_eq!(Plan::decode(&encoded), Some(plan));
    assert_eq!(Plan::decode(b"{}"), None);
    for cut in 0..encoded.len() {
        assert_eq!(Plan::decode(&encoded[..cut]), None, "{cut}");
    }
    assert_eq!(Plan::decode(b"run\0--detach\0"), None);
}

#[test]
fn fuzzed_plans_are_read_or_refused() {
    let options = [
        "--env",
        "A=b",
        "--console",
        "a=listen:sock",
        "--on-exit",
        "true",
        "--pid-file",
        "/tmp/p",
        "--restart",
        "on-failure:7",
        "--log-rate",
        "7K/s,burst=8K",
        "--stop-timeout",
        "7s",
    ];
    let encoded = plan(&options).encode();
    assert!(Plan::decode(&encoded).is_some());
    rounds(|random| {
        let mut bytes = encoded.clone();
        mutate(random, &mut bytes, &[b"null", b"{\"bytes\":[0]}", b"1e999", b"[]", b"\\ud800"]);
        if let Some(plan) = Plan::decode(&bytes) {
            assert!(Plan::decode(&plan.encode()).is_some());
            let _ = plan.checked();
        }
    });
}
