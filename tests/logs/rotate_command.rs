//! The command of `--log-rotate-command`: its generations, environment and failures. For its work
//! at the end of a run see `rotate_command_left.rs`.

#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::works::{LINES, Works, lines};
use crate::common::{
    self, Process, State, assert_same, code, eventually, has, is_alive, process_state, signal, wait,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn supervisor(state: &State) -> u32 {
    eventually("the supervisor", || state.run_column("web", "supervisor_pid").is_some());
    state.run_column("web", "supervisor_pid").unwrap().parse().unwrap()
}

#[test]
fn gzip_and_zstd_compress_each_generation_without_a_wrapper() {
    for (command, ending, show) in [
        ("gzip", "gz", "gzip -cd"),
        ("zstd -q --rm", "zst", "zstd -qcd"),
        ("gzip -9 -q", "gz", "zcat"),
    ] {
        if !has(command.split(' ').next().unwrap()) {
            eprintln!("skipped: there is no {command}");
            continue;
        }
        let state = State::new();
        let options =
            ["--log-max-size", "50000", "--log-max-files", "99", "--log-rotate-command", command];
        let script = LINES.replace("COUNT", "1000");
        let output = state.run("web", &options, &script).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(output.status.code(), Some(0));
        let generation = |number| state.logs().join(format!("web.log.{number:08}.{ending}"));
        let plain = |number| state.logs().join(format!("web.log.{number:08}"));
        // The last of them after the end of the run.
        eventually("all are compressed", || {
            (1..=19).all(|number| generation(number).exists() && !plain(number).exists())
        });
        let mut whole = Vec::new();
        for number in 1..=19 {
            let mut words = show.split(' ');
            let mut show = Command::new(words.next().unwrap());
            whole.extend(show.args(words).arg(generation(number)).output().unwrap().stdout);
            let index = state.logs().join(format!("web.log.{number:08}.idx"));
            assert!(index.exists(), "the index of {number} stays");
        }
        whole.extend(state.log("web"));
        assert_same(&whole, &lines(1000), command);
    }
}

#[test]
fn the_path_is_the_unmodified_last_argument() {
    let state = State::new();
    let odd = state.file("a 'b' \"c\" $d *\n");
    fs::create_dir(&odd).unwrap();
    let written = state.file("written");
    let command = format!("printf '[%s]' >>{} one two", written.display());
    let options =
        ["--log-dir", odd.to_str().unwrap(), "--log-max-size", "2000", "--log-rotate-command"];
    let mut options = options.to_vec();
    options.push(&command);
    let script = LINES.replace("COUNT", "3");
    let mut run = state.run("web", &options, &script);
    assert_eq!(code(wait(&mut run.stdout(Stdio::null()).spawn().unwrap())), 0);
    let expected = format!("[one][two][{}/{}/web.log.00000001]", odd.display(), common::CONFIG);
    eventually("the command", || {
        fs::read_to_string(&written).is_ok_and(|written| written == expected)
    });
}

#[test]
fn the_command_has_a_process_group_of_its_own_and_no_inherited_descriptors() {
    let state = State::new();
    let written = state.file("written");
    let command = format!(
        "{{ cat /proc/self/stat; ls -l /proc/self/fd; cat /proc/self/status; ionice -p $$; env; \
         }} >{0} 2>&1; mv {0} {0}.whole; : ",
        written.display()
    );
    let (_held, inherited) = std::io::pipe().unwrap();
    let mut run = state.run(
        "web",
        &["--log-max-size", "2000", "--log-rotate-command", &command],
        &format!("{}; exec sleep 100", LINES.replace("COUNT", "3")),
    );
    run.stdout(Stdio::null());
    // With ignored signals and an inheritable descriptor, set by a shell in between.
    let mut outer = Command::new("sh");
    outer.args(["-c", "trap '' HUP INT USR2; exec 7<&0; exec 0</dev/null; exec \"$@\"", "sh"]);
    outer.arg(run.get_program()).args(run.get_args()).stdin(inherited).stdout(Stdio::null());
    for (key, value) in run.get_envs() {
        match value {
            Some(value) => outer.env(key, value),
            None => outer.env_remove(key),
        };
    }
    let mut run = Process::spawn(&mut outer);
    let whole = written.with_extension("whole");
    eventually("the command", || whole.exists());
    let said = fs::read_to_string(&whole).unwrap();
    let stat: Vec<&str> =
        said.lines().next().unwrap().rsplit(") ").next().unwrap().split(' ').collect();
    // proc_pid_stat(5) from the state on: ppid is at 1, pgrp 2, session 3, nice 16.
    assert_eq!(stat[16], "19", "nice");
    let own_session = nix::unistd::getsid(None).unwrap().to_string();
    assert_eq!(stat[3], own_session, "it is none of the sandbox's session");
    assert_ne!(stat[2], nix::unistd::getpgrp().to_string());
    assert_eq!(stat[2], stat[1], "a group of its own");
    let streams = said.lines().filter(|line| line.contains(" -> ")).count();
    assert!(!said.contains("pipe:"), "{said}");
    // The descriptors of `ls`: three standard streams, two of them to the file, and its directory.
    assert_eq!(streams, 4, "{said}");
    assert!(said.contains("0 -> /dev/null"), "{said}");
    for name in ["SigBlk:\t", "SigIgn:\t"] {
        let mask = said.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        // 32 and 33 belong to the C library, and may be ignored by the caller of this test.
        let mask = u64::from_str_radix(mask, 16).unwrap() & !(3 << 31);
        assert_eq!(mask, 0, "{said}");
    }
    if has("ionice") {
        assert!(said.lines().any(|line| line == "idle"), "{said}");
    }
    assert!(!said.contains("VMON_RUN="), "{said}");
    signal(&run, Signal::SIGTERM);
    wait(&mut run);
}

#[test]
fn the_command_has_the_file_limit_that_vmon_was_started_with() {
    let state = State::new();
    let written = state.file("limit");
    let command = format!("ulimit -Sn >{0}.part; mv {0}.part {0}; : ", written.display());
    let options = ["--log-max-size", "2000", "--log-rotate-command", &command];
    let vmon = state.run("web", &options, &LINES.replace("COUNT", "3"));
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -Sn 123 && exec \"$@\"", "sh"]).arg(vmon.get_program());
    shell.args(vmon.get_args()).envs(vmon.get_envs().filter_map(|(k, v)| Some((k, v?))));
    assert_eq!(code(shell.stdout(Stdio::null()).status().unwrap()), 0);
    eventually("the command", || written.exists());
    assert_eq!(fs::read_to_string(&written).unwrap(), "123\n");
}

#[test]
fn a_failure_is_a_warning_that_names_the_path_and_the_status() {
    for (command, status) in [
        ("exit 3 #", "exit code 3"),
        ("kill -9 $$ #", "SIGKILL"),
        ("/nonexistent/x", "exit code 127"),
    ] {
        let state = State::new();
        let options = ["--log-max-size", "2000", "--log-rotate-command", command];
        let mut run =
            state.run("web", &options, &format!("{}; read x", LINES.replace("COUNT", "3")));
        let run = run.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut run = Process::spawn(run);
        let mut line = String::new();
        BufReader::new(run.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let path = state.logs().join("web.log.00000001");
        assert!(line.starts_with("vmon: ") && line.contains(path.to_str().unwrap()), "{line}");
        assert!(line.contains(status), "{line}");
        drop(run.stdin.take());
        assert_eq!(code(wait(&mut run)), 1, "as `read` says; the failure changes nothing");
    }
}

#[test]
fn the_incomplete_output_of_a_failed_command_is_removed() {
    let state = State::new();
    let command = "sh -c 'head -c 10 \"$1\" >\"$1.gz\"; cp \"$1.gz\" \"$1.zst\"; exit 1' sh";
    let options =
        ["--log-max-size", "2000", "--log-max-files", "9", "--log-rotate-command", command];
    let script = format!("{}; read x", LINES.replace("COUNT", "9"));
    let mut run = state.run("web", &options, &script);
    let mut run =
        Process::spawn(run.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()));
    let mut warnings = BufReader::new(run.stderr.take().unwrap()).lines();
    for number in 1..=4 {
        let line = warnings.next().unwrap().unwrap();
        assert!(line.contains(&format!("web.log.0000000{number}: exit code 1")), "{line}");
    }
    drop(run.stdin.take());
    wait(&mut run);
    assert_same(&state.whole_log("web"), &lines(9), "nothing is lost");
    let compressed =
        |path: &PathBuf| matches!(path.extension().unwrap().to_str(), Some("gz" | "zst"));
    assert!(!state.generations("web").iter().any(compressed));
}

#[test]
fn one_command_runs_at_a_time_in_the_order_of_generations() {
    let works = Works::new();
    let mut run = works.run(&[], 60, "exec sleep 100");
    let mut run = Process::spawn(&mut run);
    works.wait_for_begun(29);
    works.wait_for_all_done();
    assert_eq!(works.numbers("begun"), (1..=29).collect::<Vec<_>>());
    assert_same(&works.whole(), &lines(60), "all generations");
    signal(&run, Signal::SIGTERM);
    wait(&mut run);
}

#[test]
fn a_hanging_command_blocks_neither_the_loop_nor_a_stop_and_outlives_the_run() {
    let works = Works::new();
    works.hold();
    let mut run = works.run(&[], 3, "while read line; do echo \"got $line\"; done; exec sleep 100");
    run.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut run = Process::spawn(&mut run);
    works.wait_for_begun(1);
    let mut output = BufReader::new(run.stdout.take().unwrap());
    let mut input = run.stdin.take().unwrap();
    for number in 0..20 {
        writeln!(input, "{number}").unwrap();
        let expected = format!("got {number}\n");
        let mut line = String::new();
        while line != expected {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0);
        }
    }
    signal(&run, Signal::SIGTERM);
    assert_eq!(code(wait(&mut run)), 143);
    let worker = works.worker();
    assert!(is_alive(worker));
    assert_eq!(works.state.run_column("web", "reason").as_deref(), Some("stopped"));
    assert_eq!(works.generations().0, ["00000001"]);
    works.release();
    eventually("it goes on by itself", || works.generations().1 == ["00000001.gz"]);
}

#[test]
fn a_command_leaves_no_zombies() {
    let state = State::new();
    // When its shell ends, the background job becomes a child of vmon, which is a subreaper.
    let command = "sh -c 'sleep 0.1 & gzip \"$1\"' sh";
    let options =
        ["--log-max-size", "2000", "--log-max-files", "99", "--log-rotate-command", command];
    let script = format!("{}; exec sleep 100", LINES.replace("COUNT", "9"));
    let mut run = Process::spawn(state.run("web", &options, &script).stdout(Stdio::null()));
    let children = || {
        let all = fs::read_to_string(format!("/proc/{0}/task/{0}/children", run.id())).unwrap();
        all.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()).collect::<Vec<_>>()
    };
    eventually("all are compressed", || state.logs().join("web.log.00000004.gz").exists());
    let child: u32 = state.run_column("web", "pid").unwrap().parse().unwrap();
    eventually("the command alone is there", || children() == [child]);
    signal(&run, Signal::SIGTERM);
    wait(&mut run);
}

#[test]
fn a_generation_that_is_removed_before_its_turn_is_skipped() {
    let works = Works::new();
    works.hold();
    let then = format!("read x; {}; exec sleep 100", LINES.replace("COUNT", "17"));
    let mut run = works.run(&["--log-max-files", "2"], 3, &then);
    let mut run = Process::spawn(run.stdin(Stdio::piped()));
    works.wait_for_begun(1);
    drop(run.stdin.take());
    eventually("it has rotated its log", || works.generations().0 == ["00000008", "00000009"]);
    works.release();
    works.wait_for_all_done();
    assert_eq!(works.numbers("begun"), [1, 8, 9]);
    // The first one was removed while the command was reading it, which it reports.
    assert_eq!(works.generations().1, ["00000008.gz", "00000009.gz"]);
    signal(&run, Signal::SIGTERM);
    wait(&mut run);
}

#[test]
fn the_output_of_a_generation_removed_in_the_meantime_is_removed_too() {
    let state = State::new();
    let hold = state.file("hold");
    File::create(&hold).unwrap();
    // It has the file open the whole time.
    let begun = state.file("begun");
    let command = format!(
        "sh -c 'exec 4<\"$1\"; :>{}; while [ -e {} ]; do sleep 0.02; done; cat <&4 >\"$1.gz\"' sh",
        begun.display(),
        hold.display()
    );
    let options =
        ["--log-max-size", "2000", "--log-max-files", "1", "--log-rotate-command", &command];
    let lines = |count: &str| LINES.replace("COUNT", count);
    let script = format!("{}; read x; {}; exec sleep 100", lines("3"), lines("6"));
    let mut run = state.run("web", &options, &script);
    let mut run = Process::spawn(run.stdin(Stdio::piped()).stdout(Stdio::null()));
    eventually("the first is worked on", || begun.exists());
    drop(run.stdin.take());
    let there = |name: &str| state.logs().join(name).exists();
    eventually("the first is removed", || there("web.log.00000004") && !there("web.log.00000001"));
    fs::remove_file(&hold).unwrap();
    eventually("the last is worked on", || there("web.log.00000004.gz"));
    eventually("nothing is left of the first", || !there("web.log.00000001.gz"));
    signal(&run, Signal::SIGTERM);
    wait(&mut run);
}

/// The size of all files of the log while the supervisor is stopped.
fn taken(supervisor: u32, logs: &Path) -> u64 {
    let supervisor = Pid::from_raw(supervisor as i32);
    kill(supervisor, Signal::SIGSTOP).unwrap();
    eventually("it is stopped", || process_state(supervisor.as_raw() as u32) == Some('T'));
    let entries = fs::read_dir(logs).unwrap();
    let size = entries.map(|entry| entry.unwrap().metadata().map_or(0, |found| found.len())).sum();
    kill(supervisor, Signal::SIGCONT).unwrap();
    size
}

#[test]
fn the_total_holds_while_a_flood_rotates_whatever_the_command_does() {
    for command in [
        "gzip",
        "false",
        "sh -c 'cp \"$1\" \"$1.gz\"; exit 1' sh",
        "sh -c 'cp \"$1\" \"$1.zst\"; kill -9 $$' sh",
        "sh -c 'exec 4<\"$1\"; cp \"$1\" \"$1.gz\"; while [ -e hold ]; do sleep 0.05; done' sh",
        "sh -c 'mv \"$1\" moved' sh",
    ] {
        let state = State::new();
        File::create(state.file("hold")).unwrap();
        const TOTAL: u64 = 1 << 20;
        let options = [
            "--log-total-size",
            "1MiB",
            "--log-max-size",
            "64KiB",
            "--log-level",
            "off",
            "--log-rotate-command",
            command,
        ];
        // Random bytes, which can't be compressed.
        let script = "while [ -e hold ]; do head -c 30000 /dev/urandom; done";
        let mut run = state.run("web", &options, script);
        let mut run = Process::spawn(run.current_dir(state.path()).stdout(Stdio::null()));
        let supervisor = supervisor(&state);
        let mut largest = 0;
        let mut turns = 0;
        let highest = || {
            let numbers = state.generations("web").into_iter();
            let numbers = numbers.filter_map(|path| {
                path.to_str()?.rsplit(".log.").next()?.get(..8)?.parse::<u32>().ok()
            });
            numbers.max().unwrap_or(0)
        };
        eventually("it has rotated many times", || {
            largest = largest.max(taken(supervisor, &state.logs()));
            assert!(largest <= TOTAL, "{command}: {largest}");
            turns += 1;
            turns > 60 && (highest() > 60 || command.contains("mv"))
        });
        assert!(largest > TOTAL / 2 || command.contains("mv"), "{command}: {largest}");
        fs::remove_file(state.file("hold")).unwrap();
        wait(&mut run);
    }
}
