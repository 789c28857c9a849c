//! `vmon replay`: the output and the state of the terminal afterwards.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::Read;
use std::process::{Command, Output, Stdio};

use crate::common::recorded::{Kind, Recording};
use crate::common::{
    Detached, Process, State, Terminal, assert_same, code, contains, eventually,
    needs_terminal_program, noise, signal, wait,
};
use nix::sys::signal::Signal;

fn replay(state: &State, args: &[&str]) -> Command {
    let mut command = state.vmon();
    command.arg("replay").args(args);
    command
}

/// Enters the alternate screen, hides the cursor, and is silent for an hour.
fn full_screen(state: &State) {
    Recording::of(state, "web")
        .tty("\x1b[?1049h\x1b[?25l\x1b[31mfull screen")
        .hour()
        .tty("\x1b[?1049l\x1b[?25hlater")
        .write(state);
}

const GIVEN_BACK: &str = "\x1b[?1049l\x1b[m\x1b[?25h";

#[test]
fn a_pipe_gets_the_bytes_unchanged() {
    let state = State::new();
    let bytes = noise(300_000, 5);
    let mut recording = Recording::of(&state, "web");
    for chunk in bytes.chunks(7001) {
        recording = recording.bytes(Kind::Stdout, chunk).pause(1).bytes(Kind::Stderr, "x").hour();
    }
    let log = recording.pending("tail").write(&state);
    let output = replay(&state, &["web", "--max-idle", "0"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    assert_same(&output.stdout, &log, "what was played");
}

#[test]
fn the_last_of_several_runs_is_played_unless_another_is_selected() {
    let state = State::new();
    for text in ["first", "second", "third"] {
        let options = if text == "third" { &["--log-index", "off"][..] } else { &[] };
        let run = state.run("web", options, &format!("echo {text}")).output().unwrap();
        assert!(run.status.success());
    }
    let played = |args: &[&str]| {
        let output = replay(&state, args).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(played(&["web"]), "third\n");
    assert_eq!(played(&["Sandboxfile/web", "--run", "2"]), "second\n");
    assert_eq!(played(&["web", "--config-file", "Sandboxfile", "--run", "1"]), "first\n");
    assert_eq!(played(&["web", "--run", "all"]), "first\nsecond\nthird\n");
    let none = replay(&state, &["web", "--run", "9"]).output().unwrap();
    assert_eq!(none.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&none.stderr),
        "vmon: can't replay Sandboxfile/web: it has no run 9: 'vmon history Sandboxfile/web' lists those on record\n"
    );
    // A run that is not on record is found by the marks of the log.
    assert!(state.vmon().args(["rm", "web"]).output().unwrap().status.success());
    assert!(played(&["web"]).starts_with("second\n"));
}

#[test]
fn logs_in_other_formats_are_played_by_their_times() {
    let state = State::new();
    for format in ["cri", "json"] {
        for text in ["first", "second"] {
            let script =
                format!("echo {text}; echo unfinished >&2; printf '{text} \\342\\202\\254'");
            let mut run = state.run(format, &["--log-format", format], &script);
            assert!(run.output().unwrap().status.success());
        }
        let played = |args: &[&str]| {
            let output = replay(&state, args).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stderr), "");
            let text = String::from_utf8(output.stdout).unwrap().replace("unfinished\n", "");
            text.trim_end().to_owned()
        };
        assert_eq!(played(&[format]), "second\nsecond \u{20ac}");
        assert_eq!(played(&[format, "--run", "all"]).matches("first").count(), 2);
    }
}

#[test]
fn the_output_of_a_running_sandbox_is_played_up_to_the_present() {
    let state = State::new();
    let _web =
        Detached::start(&state, &mut state.run("web", &["-dt"], "echo so far; exec sleep 3600"));
    state.wait_for_log("web", b"so far\r\n");
    let output = replay(&state, &["web"]).output().unwrap();
    assert_eq!(output.stdout, b"so far\r\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_pause_lasts_until_a_signal_ends_it() {
    let state = State::new();
    Recording::of(&state, "web").tty("before").hour().tty("after").write(&state);
    for number in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut command = replay(&state, &["web", "--speed", "1000"]);
        let mut playing = Process::spawn(command.stdout(Stdio::piped()));
        let mut stdout = playing.stdout.take().unwrap();
        let mut before = [0; 6];
        stdout.read_exact(&mut before).unwrap();
        assert_eq!(&before, b"before");
        signal(&playing, number);
        assert_eq!(code(wait(&mut playing)), 128 + number as i32);
        let mut rest = Vec::new();
        stdout.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"");
    }
}

#[test]
fn the_terminal_is_restored_when_a_key_or_a_signal_ends_the_replay() {
    let state = State::new();
    full_screen(&state);
    type End = fn(&mut Terminal);
    let ends: [(End, i32); 5] = [
        (|terminal| terminal.send("\x03"), 130),
        (|terminal| terminal.send("xq"), 0),
        (|terminal| signal(&terminal.child, Signal::SIGTERM), 143),
        (|terminal| signal(&terminal.child, Signal::SIGHUP), 129),
        (|terminal| terminal.send("\x1c"), 131),
    ];
    for (end, expected) in ends {
        let mut modes = None;
        let mut terminal = Terminal::spawn_on(&mut replay(&state, &["web"]), |master| {
            modes = nix::sys::termios::tcgetattr(master).ok();
        });
        terminal.wait_for("\x1b[?1049h\x1b[?25l\x1b[31mfull screen");
        assert_ne!(terminal.modes(), modes.clone().unwrap());
        end(&mut terminal);
        assert_eq!(terminal.finish(), expected);
        assert_eq!(terminal.modes(), modes.unwrap());
        let seen = String::from_utf8_lossy(&terminal.seen).into_owned();
        assert!(seen.ends_with(GIVEN_BACK), "{seen:?}");
    }
}

/// tmux with a program in it. It is killed on drop.
struct Tmux<'a>(&'a State);

impl Tmux<'_> {
    fn command(&self, args: &[&str]) -> std::io::Result<Output> {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.0.file("tmux")).args(["-f", "/dev/null"]).args(args);
        // tmux runs the command with the user's login shell, which may be nologin.
        command.env("SHELL", "/bin/sh");
        command.env("VMON_STATE_DIR", self.0.path()).env_remove("TMUX").output()
    }

    fn wait_for(&self, format: &str, expected: &str) {
        eventually(&format!("{format} is {expected}"), || {
            let output = self.command(&["display-message", "-p", format]).unwrap();
            String::from_utf8(output.stdout).unwrap().trim_end() == expected
        });
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]);
    }
}

#[test]
fn tmux_shows_the_session_and_then_its_former_contents() {
    let state = State::new();
    let Some(()) = needs_terminal_program("tmux") else { return };
    full_screen(&state);
    let tmux = Tmux(&state);
    let vmon = env!("CARGO_BIN_EXE_vmon");
    // The player reads the key; a shell would end by it too.
    let script = format!("trap : INT; echo before; {vmon} replay web; echo \"code $?\"; exec cat");
    assert!(tmux.command(&["new-session", "-d", &script]).unwrap().status.success());
    let state = "#{alternate_on} #{cursor_flag}";
    tmux.wait_for(state, "1 0");
    tmux.command(&["send-keys", "C-c"]).unwrap();
    tmux.wait_for(state, "0 1");
    eventually("the end", || {
        let shown = tmux.command(&["capture-pane", "-p"]).unwrap().stdout;
        String::from_utf8(shown).unwrap().trim_end() == "before\ncode 130"
    });
}

#[test]
fn a_suspended_replay_restores_the_terminal() {
    let state = State::new();
    full_screen(&state);
    let mut terminal = Terminal::spawn(&mut replay(&state, &["web"]));
    terminal.wait_for("full screen");
    signal(&terminal.child, Signal::SIGTSTP);
    // The orphaned process group of a session leader is not stopped (setpgid(2)), so it resumes at
    // once.
    terminal.wait_for(GIVEN_BACK);
    terminal.wait_for("\x1b[?1049h\x1b[?25l\x1b[31m");
    terminal.send("q");
    assert_eq!(terminal.finish(), 0);
}

#[test]
fn the_end_of_a_session_restores_the_terminal() {
    let state = State::new();
    Recording::of(&state, "web").tty("\x1b[?1049h\x1b[?25lkilled here").write(&state);
    let mut terminal = Terminal::spawn(&mut replay(&state, &["web"]));
    assert_eq!(terminal.finish(), 0);
    let seen = String::from_utf8_lossy(&terminal.seen).into_owned();
    assert!(seen.ends_with("killed here\x1b[?1049l\x1b[?25h"), "{seen:?}");
}

#[test]
fn a_replay_sends_no_queries_and_keeps_title_and_clipboard() {
    let state = State::new();
    let wants = "\x1b[6n\x1b[c\x1b]0;title\x07\x1b]52;c;YQ==\x07\x1b[?1000h\x1b[?2004h\x1bPq\x1b\\";
    Recording::of(&state, "web").tty(format!("a{wants}b\x1b[2Jc")).write(&state);
    let mut terminal = Terminal::spawn(&mut replay(&state, &["web"]));
    assert_eq!(terminal.finish(), 0);
    let seen = String::from_utf8_lossy(&terminal.seen).into_owned();
    assert_eq!(seen, "ab\x1b[2Jc");
    // On a pipe the bytes are unchanged.
    let output = replay(&state, &["web"]).output().unwrap();
    assert!(contains(&output.stdout, wants.as_bytes()));
}

#[test]
fn lines_of_pipes_get_a_carriage_return_and_those_of_a_terminal_do_not() {
    let state = State::new();
    Recording::of(&state, "web")
        .tty("a\nb\r\n")
        .bytes(Kind::Stdout, "c\n")
        .bytes(Kind::Stderr, "d\ne")
        .write(&state);
    let mut terminal = Terminal::spawn(&mut replay(&state, &["web"]));
    assert_eq!(terminal.finish(), 0);
    let seen = String::from_utf8_lossy(&terminal.seen).into_owned();
    assert_eq!(seen, "a\nb\r\nc\r\nd\r\ne");
}

#[test]
fn a_smaller_terminal_is_reported() {
    let state = State::new();
    Recording::of(&state, "web").size(120, 50).tty("x").size(200, 60).tty("y").write(&state);
    let mut terminal = Terminal::spawn(&mut replay(&state, &["web"]));
    terminal.wait_for("the session had a terminal of 120x50, and this one has 100x40");
    terminal.wait_for("xy");
    assert_eq!(terminal.finish(), 0);
}

#[test]
fn a_recorded_change_of_size_drops_the_scrolling_region() {
    let state = State::new();
    let recording = Recording::of(&state, "web").size(80, 24).tty("\x1b[2;23rone").size(80, 30);
    recording.tty("two").size(90, 30).tty("\x1b[1;29rthree").write(&state);
    let mut terminal = Terminal::spawn(&mut replay(&state, &["web"]));
    assert_eq!(terminal.finish(), 0);
    let seen = String::from_utf8_lossy(&terminal.seen).into_owned();
    let dropped = "\x1b7\x1b[r\x1b8";
    assert_eq!(seen, format!("\x1b[2;23rone{dropped}two\x1b[1;29rthree{dropped}"));
}

#[test]
fn without_an_index_all_bytes_are_played_at_once_with_a_warning() {
    let state = State::new();
    let log = Recording::of(&state, "web").tty("all of it").write(&state);
    fs::remove_file(state.log_path("web").with_extension("log.idx")).unwrap();
    let output = replay(&state, &["web"]).output().unwrap();
    assert_eq!(output.stdout, log);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "vmon: warn: the log of Sandboxfile/web has no times: all bytes were played at once\n"
    );
}

#[test]
fn a_closed_stdout_ends_it_without_a_message() {
    let state = State::new();
    let mut recording = Recording::of(&state, "web");
    for _ in 0..100 {
        recording = recording.tty(noise(50_000, 9)).pause(1);
    }
    recording.write(&state);
    let mut command = replay(&state, &["web"]);
    let mut playing = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    playing.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
    assert_eq!(code(wait(&mut playing)), 0);
    let mut said = String::new();
    playing.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn a_failed_replay_is_reported_in_one_line() {
    let state = State::new();
    Recording::of(&state, "web").tty("x").write(&state);
    fs::remove_dir_all(state.logs()).unwrap();
    let log = state.log_path("web");
    for (args, expected, said) in [
        (&["nix"][..], 1, "vmon: no sandbox has the name 'nix': 'vmon ps --all' lists them\n".to_owned()),
        (&["web"], 1, format!("vmon: can't replay Sandboxfile/web: there is no log {}\n", log.display())),
        (&["web", "--speed", "0"], 125, "vmon: invalid value '0' for '--speed <X>': not a speed: give a number from 0.1 to 1000, such as 2 or 0.5\n".to_owned()),
        (&["web", "--run", "x"], 125, "vmon: invalid value 'x' for '--run <RUN>': give last, all, or the number of a run that 'vmon history' lists\n".to_owned()),
    ] {
        let output = replay(&state, args).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), said);
        assert_eq!(output.status.code(), Some(expected), "{args:?}");
        assert_eq!(output.stdout, b"");
    }
}
