//! Every option of `vmon run` is the same after `vmon restart`.

#![cfg(target_os = "linux")]

use std::fs;

use nix::unistd::{getegid, geteuid};
use serde_json::Value;

use crate::common::cgroups::cgroup;
use crate::common::{Detached, State, eventually, is_root};

/// Where the record has an option of a run in the background.
enum Kept {
    /// This key of the spec; `/` leads to a member of an object.
    Spec(&'static str),
    /// This column of the sandbox or the run.
    Column(&'static str),
    /// Not on record, for this reason.
    No(&'static str),
}

use Kept::{Column, No, Spec};

/// Each option, arguments with a value that is not the default, and where the record has it. `{}`
/// is a directory.
const OPTIONS: &[(&str, &[&str], Kept)] = &[
    ("--detach", &[], No("every run here is one in the background")),
    ("--via", &[], No("the tests of a host have it")),
    ("--state-dir", &[], No("it is where the record lies")),
    ("--db", &[], No("it is where the record lies")),
    ("--log-level", &["--log-level", "error"], Spec("options/log-level")),
    ("--runtime-dir", &["--runtime-dir", "{}/r"], Column("socket")),
    ("--name", &[], Column("name")),
    ("--config-file", &["--config-file", "other"], Column("config_file")),
    (
        "--config-last-modified",
        &["--config-last-modified", "2001-02-03T04:05:06.789Z"],
        Column("config_last_modified"),
    ),
    ("--label", &["--label", "app=a=\"b\"", "--label", "empty"], Spec("labels")),
    ("--native-rootfs", &["--native-rootfs", "/a"], Column("rootfs_paths")),
    ("--overlayfs-layer", &["--overlayfs-layer", "/a", "/b"], Spec("rootfs")),
    ("--log-dir", &["--log-dir", "{}/l"], Spec("log_dir")),
    ("--log", &["--log", "off"], Spec("log_off")),
    ("--log-format", &["--log-format", "cri"], Spec("log_format")),
    ("--log-max-size", &["--log-max-size", "4KiB"], Spec("log_max_size")),
    ("--log-max-files", &["--log-max-files", "7"], Spec("log_max_files")),
    ("--log-max-age", &["--log-max-age", "1h"], Spec("log_max_age_seconds")),
    ("--log-rotate-every", &["--log-rotate-every", "1500ms"], Spec("log_rotate_every_seconds")),
    ("--log-total-size", &["--log-total-size", "1MiB"], Spec("log_total_size")),
    ("--log-rotate-command", &["--log-rotate-command", "true"], Spec("log_rotate_command")),
    ("--log-index", &["--log-index", "off"], Spec("log_index")),
    ("--log-rate", &["--log-rate", "1MiB/s,burst=3MiB"], Spec("log_burst")),
    ("--over-rate", &["--log-rate", "1MiB/s", "--over-rate", "drop"], Spec("over_rate")),
    ("--on-log-error", &["--on-log-error", "drop"], Spec("on_log_error")),
    ("--no-forward", &[], No("a run in the background forwards nothing")),
    ("--forward-overflow", &[], No("a run in the background forwards nothing")),
    ("--tty", &["--tty", "always"], Spec("tty")),
    ("-t", &["-t"], Spec("tty")),
    ("-T", &["-T"], No("it is the default in the background")),
    ("--tty-size", &["-t", "--tty-size", "33x99"], Spec("tty_size")),
    ("--stdin", &["--stdin", "forward"], Spec("stdin")),
    ("--console", &["--console", "a=fifo:{}/a"], Spec("consoles")),
    (
        "--interactive",
        &["--console", "a=pty", "--console", "b=pty", "--interactive", "b"],
        Spec("interactive"),
    ),
    ("--env", &[], No("the environment is never on record")),
    ("--cwd", &["--cwd", "/"], Spec("directory")),
    // Our own ids need no rights.
    ("--user", &["--user", "{uid}:{gid}"], Spec("uid")),
    ("--group-add", &[], No("the test below has it, as root")),
    ("--umask", &["--umask", "027"], Spec("umask")),
    ("--ulimit", &["--ulimit", "core=0"], Spec("ulimits")),
    ("--oom-score-adj", &["--oom-score-adj", "1000"], Spec("oom_score_adj")),
    (
        "--preserve-fd",
        &[],
        No("a restart has no descriptors, and a test of --preserve-fd has that"),
    ),
    ("--stop-signal", &["--stop-signal", "USR1"], Spec("stop_signal")),
    ("--stop-command", &["--stop-command", "true; false"], Spec("stop_command")),
    ("--stop-timeout", &["--stop-timeout", "2500ms"], Spec("stop_timeout_seconds")),
    ("--restart", &["--restart", "on-failure:3"], Spec("restart")),
    ("--max-duration", &["--max-duration", "1h"], Spec("max_duration_seconds")),
    ("--idle-timeout", &["--idle-timeout", "2h"], Spec("idle_timeout_seconds")),
    ("--keep-runs", &["--keep-runs", "7"], Spec("keep_runs")),
    ("--cgroup", &[], No("the test below has it, where a cgroup can be made")),
    ("--leave-descendants", &["--leave-descendants"], Spec("leave_descendants")),
    ("--pid-file", &["--pid-file", "{}/pid"], Spec("options/pid-file")),
    ("--exit-file", &["--exit-file", "{}/exit"], Spec("options/exit-file")),
    ("--on-exit", &["--on-exit", "true --x"], Spec("options/on-exit")),
    ("--metrics-interval", &["--metrics-interval", "1h"], Spec("options/metrics-interval")),
];

/// The options that the help of `vmon run` lists, the long name of each where it has one.
fn listed(state: &State) -> Vec<String> {
    let help = state.vmon().args(["run", "--help"]).output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    let option = |line: &str| {
        let names = line.trim_start();
        let depth = line.len() - names.len();
        let names = names.split('<').next()?.trim_end();
        (names.starts_with('-') && depth <= 6)
            .then(|| names.rsplit(", ").next())?
            .map(str::to_owned)
    };
    let options: Vec<String> = help.lines().filter_map(option).collect();
    assert!(options.len() > 40, "{options:?}");
    options.into_iter().filter(|option| option != "--help").collect()
}

/// Everything on record that determines how a sandbox is started.
fn recorded(state: &State, name: &str) -> (Value, Vec<Option<String>>) {
    let spec = state.run_column(name, "spec").unwrap();
    let column = |column| state.sandbox_column(name, column);
    let sandbox = ["name", "config_file", "config_last_modified", "rootfs_paths"].map(column);
    let columns = sandbox.into_iter().chain([state.run_column(name, "socket")]);
    (serde_json::from_str(&spec).unwrap(), columns.collect())
}

#[test]
fn every_option_of_run_survives_a_restart() {
    let state = State::new();
    for option in listed(&state) {
        assert!(OPTIONS.iter().any(|(known, ..)| *known == option), "{option} is not tested here");
    }
    let _default = Detached::start(&state, &mut state.run("default", &["-d"], "exec sleep 100"));
    let (default, _) = recorded(&state, "default");
    // Each runs until all have been compared: a killed supervisor makes later commands warn.
    let mut running = Vec::new();
    for (option, arguments, kept) in OPTIONS {
        let name = option.trim_start_matches('-').to_owned() + &option.len().to_string();
        let directory = state.file(&name);
        fs::create_dir(&directory).unwrap();
        let path = directory.to_str().unwrap();
        let own = |word: &str| {
            word.replace("{uid}", &geteuid().to_string()).replace("{gid}", &getegid().to_string())
        };
        let arguments: Vec<String> =
            arguments.iter().map(|word| own(&word.replace("{}", path))).collect();
        let mut words = vec!["-d"];
        words.extend(arguments.iter().map(String::as_str));
        let first = Detached::start(&state, &mut state.run(&name, &words, "exec sleep 100"));
        let before = recorded(&state, &name);
        match kept {
            Spec(key) => {
                let pointer = format!("/{key}");
                let value = before.0.pointer(&pointer);
                assert!(value.is_some(), "{option}: the spec has no {key}");
                assert_ne!(value, default.pointer(&pointer), "{option}");
            }
            Column(column) => {
                let at = ["name", "config_file", "config_last_modified", "rootfs_paths", "socket"];
                let at = at.iter().position(|known| known == column).unwrap();
                assert!(before.1[at].as_ref().is_some_and(|value| !value.is_empty()), "{option}");
            }
            No(reason) => assert_eq!(before.0, default, "{option}: {reason}"),
        }
        let again = Detached::start(&state, state.vmon().args(["restart", &name]));
        assert_ne!(again.pid, first.pid, "{option}");
        assert_eq!(recorded(&state, &name), before, "{option}");
        running.push(again);
    }
}

#[test]
fn what_the_options_do_is_the_same_after_a_restart() {
    let state = State::new();
    let path = |name: &str| state.file(name).to_str().unwrap().to_owned();
    fs::create_dir(state.file("work")).unwrap();
    // An absolute path: the hook runs in the directory of 'vmon restart' the second time.
    let hook = format!("echo \"$VMON_LOG\" >> {}", path("hook"));
    let options = [
        "-dt",
        "--config-file",
        "other",
        "--log-format",
        "json",
        "--log-dir",
        &path("l"),
        "--cwd",
        &path("work"),
        "--runtime-dir",
        &path("r"),
        "--stop-signal",
        "USR1",
        "--pid-file",
        &path("pid"),
        "--exit-file",
        &path("exit"),
        "--on-exit",
        &hook,
        "--console",
        "a=pty",
        "--interactive",
        "stdio",
        "--config-last-modified",
        "2001-02-03T04:05:06Z",
    ];
    let script = "trap 'echo caught; exit 7' USR1; pwd; tty; echo console $0
        while :; do sleep 0.01; done";
    let mut run = state.run("web", &options, script);
    let first = Detached::start(&state, run.arg("{a}").current_dir(state.file("work")));
    let log = || fs::read_to_string(state.file("l/other/web.log")).unwrap_or_default();
    let lines = |what: &str| log().lines().filter(|line| line.contains(what)).count();
    eventually("the command runs", || lines("console /dev/pts/") == 1);
    fs::create_dir(state.file("elsewhere")).unwrap();
    let mut restart = state.vmon();
    restart.args(["restart", "other/web"]).current_dir(state.file("elsewhere"));
    let again = Detached::start(&state, &mut restart);
    eventually("the command runs again", || lines("console /dev/pts/") == 2);
    assert_eq!(lines("caught"), 1, "{}", log());
    assert_eq!(lines(&format!("{}/work", state.path().display())), 2, "{}", log());
    assert!(log().lines().all(|line| line.starts_with("{\"log\":")), "{}", log());
    assert_eq!(fs::read_to_string(state.file("exit")).ok(), None, "the run goes on");
    assert_eq!(fs::read_to_string(state.file("pid")).unwrap(), format!("{}\n", again.pid));
    assert_ne!(first.pid, again.pid);
    assert!(state.file("r/other/web.sock").exists());
    let hook = fs::read_to_string(state.file("hook")).unwrap();
    assert_eq!(hook, format!("{}\n", path("l/other/web.log")));
    let modified = state.sandbox_column("web", "config_last_modified");
    assert_eq!(modified.as_deref(), Some("2001-02-03T04:05:06.000000Z"));
    let stopped = state.vmon().args(["stop", "other/web"]).status().unwrap();
    assert!(stopped.success());
    assert_eq!(lines("caught"), 2, "{}", log());
    // The supervisor writes it after the end is on record.
    let exit = || fs::read_to_string(state.file("exit")).ok();
    eventually("the exit file is written", || exit().as_deref() == Some("7\n"));
}

#[test]
fn a_user_is_the_same_after_a_restart() {
    if !is_root() {
        return;
    }
    let state = State::new();
    let options = ["-d", "--user", "nobody", "--group-add", "7", "--group-add", "9"];
    let script = "id; env | grep -E '^(HOME|USER|LOGNAME|SHELL)='; echo end; exec sleep 100";
    let log = || String::from_utf8(state.log("web")).unwrap();
    let _first = Detached::start(&state, &mut state.run("web", &options, script));
    eventually("the first run is as another user", || log().ends_with("end\n"));
    let first = log();
    assert!(first.contains("uid=65534(nobody)") && first.contains("USER=nobody\n"), "{first}");
    assert!(first.contains(",7(") && first.contains(",9("), "{first}");
    let before = recorded(&state, "web");
    let _again = Detached::start(&state, state.vmon().args(["restart", "web"]));
    assert_eq!(recorded(&state, "web"), before);
    let sorted = |log: &str| {
        let mut lines: Vec<String> = log.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let twice = sorted(&first.repeat(2));
    eventually("the second run is as that user", || sorted(&log()) == twice);
    assert!(state.vmon().args(["stop", "web"]).status().unwrap().success());
}

#[test]
fn a_cgroup_is_the_same_after_a_restart() {
    let Some(path) = cgroup("restart") else { return };
    let state = State::new();
    let options = ["-d", "--cgroup", path.to_str().unwrap()];
    let script = "cat /proc/self/cgroup; exec sleep 100";
    let name = path.file_name().unwrap().to_str().unwrap();
    let seen = || String::from_utf8(state.log("web")).unwrap().matches(name).count();
    let _first = Detached::start(&state, &mut state.run("web", &options, script));
    eventually("the first run is in the cgroup", || seen() == 1);
    let before = recorded(&state, "web");
    let _again = Detached::start(&state, state.vmon().args(["restart", "web"]));
    assert_eq!(recorded(&state, "web"), before);
    eventually("the second run is in the cgroup", || seen() == 2);
    assert!(state.vmon().args(["stop", "web"]).status().unwrap().success());
}

#[test]
fn what_a_record_must_not_ask_for_is_refused_before_the_stop() {
    let state = State::new();
    let sandbox = Detached::start(&state, &mut state.run("web", &["-d"], "exec sleep 100"));
    let original = state.run_column("web", "spec").unwrap();
    let db = rusqlite::Connection::open(state.db()).unwrap();
    for (change, why) in [
        ("'$.log_total_size', 1", "--log-total-size is too small"),
        ("'$.log_max_size', 9, '$.log_total_size', 9999, '$.log_max_size', 0", "--log-max-size 0"),
        ("'$.log_rotate_command', 'gzip', '$.log_max_files', 0", "--log-max-files 0"),
        ("'$.consoles', json('[\"a=pty\", \"a=pty\"]')", "two consoles have the name"),
        ("'$.interactive', 'a'", "there is no console \"a\""),
        ("'$.max_duration_seconds', 0.0", "(--max-duration)"),
        ("'$.options.\"pid-file\"', '/nonexistent/x'", "--pid-file"),
        ("'$.options.\"metrics-interval\"', '0s'", "options on record"),
        ("'$.rootfs', json('{\"overlayfs\": [\"/a:b\"]}')", "can't contain ':'"),
    ] {
        let update = format!("UPDATE vmon_runs SET spec = json_set(?1, {change})");
        db.execute(&update, [&original]).unwrap();
        let output = state.vmon().args(["restart", "web"]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{change}: {said}");
        assert!(said.contains("can't restart Sandboxfile/web: "), "{change}: {said}");
        assert!(said.contains(why) && said.lines().count() == 1, "{change}: {said}");
        assert!(crate::common::is_alive(sandbox.pid), "{change}");
    }
}
