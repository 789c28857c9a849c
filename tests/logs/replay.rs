//! `vmon replay`: a session as it was, and a terminal that is left as it was found.

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

const GIVEN_BACK: &str = "\x1b[?1049l\x1b[m\x0f\x1b(B\x1b[?25h";

#[test]
fn a_pipe_gets_the_bytes_as_they_are() {
    let state = State::new();
    let bytes = noise(300_000, 5);
    let mut recording = Recording::of(&state, "web");
    for chunk in bytes.chunks(7001) {
        recording = recording.bytes(Kind::Stdout, chunk).pause(1).bytes(Kind::Stderr, "x").hour();
    }
    let log = recording.untold("tail").write(&state);
    let output = replay(&state, &["web", "--max-idle", "0"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    assert_same(&output.stdout, &log, "what was played");
}

#[test]
fn of_several_runs_the_last_is_played_unless_another_is_asked_for() {
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
    // What is not on record any more, its log knows.
    assert!(state.vmon().args(["rm", "web"]).output().unwrap().status.success());
    assert!(played(&["web"]).starts_with("second\n"));
}

#[test]
fn logs_in_the_formats_of_others_are_played_by_their_times() {
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
fn a_sandbox_that_runs_is_played_as_far_as_it_has_come() {
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
fn a_terminal_is_given_back_as_it_was_when_a_key_or_a_signal_ends_the_play() {
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

/// tmux, with a program in it that goes when this does.
struct Tmux<'a>(&'a State);

impl Tmux<'_> {
    fn command(&self, args: &[&str]) -> std::io::Result<Output> {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.0.file("tmux")).args(["-f", "/dev/null"]).args(args);
        // tmux runs a command with the user's shell, and an account may have none that does.
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
fn an_emulator_shows_the_session_and_what_was_there_before_it() {
    let state = State::new();
    let Some(()) = needs_terminal_program("tmux") else { return };
    full_screen(&state);
    let tmux = Tmux(&state);
    let vmon = env!("CARGO_BIN_EXE_vmon");
    // The key is for the player: a shell would end by it too.
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
fn a_play_that_is_suspended_gives_the_terminal_to_others_meanwhile() {
    let state = State::new();
    full_screen(&state);
    let mut terminal = Terminal::spawn(&mut replay(&state, &["web"]));
    terminal.wait_for("full screen");
    signal(&terminal.child, Signal::SIGTSTP);
    // Nobody could continue a session leader, so it goes on at once (setpgid(2), orphaned groups).
    terminal.wait_for(GIVEN_BACK);
    terminal.wait_for("\x1b[?1049h\x1b[?25l\x1b[31m");
    terminal.send("q");
    assert_eq!(terminal.finish(), 0);
}

#[test]
fn the_end_of_a_session_gives_the_terminal_back_too() {
    let state = State::new();
    Recording::of(&state, "web").tty("\x1b[?1049h\x1b[?25lkilled here").write(&state);
    let mut terminal = Terminal::spawn(&mut replay(&state, &["web"]));
    assert_eq!(terminal.finish(), 0);
    let seen = String::from_utf8_lossy(&terminal.seen).into_owned();
    assert!(seen.ends_with(&format!("killed here{GIVEN_BACK}")), "{seen:?}");
}

#[test]
fn a_terminal_is_asked_nothing_and_keeps_its_title_and_clipboard() {
    let state = State::new();
    let wants = "\x1b[6n\x1b[c\x1b]0;title\x07\x1b]52;c;YQ==\x07\x1b[?1000h\x1b[?2004h\x1bPq\x1b\\";
    Recording::of(&state, "web").tty(format!("a{wants}b\x1b[2Jc")).write(&state);
    let mut terminal = Terminal::spawn(&mut replay(&state, &["web"]));
    assert_eq!(terminal.finish(), 0);
    let seen = String::from_utf8_lossy(&terminal.seen).into_owned();
    assert_eq!(seen, "ab\x1b[2Jc\x1b[m\x0f\x1b(B");
    // Elsewhere it is what it was.
    let output = replay(&state, &["web"]).output().unwrap();
    assert!(contains(&output.stdout, wants.as_bytes()));
}

#[test]
fn lines_of_pipes_return_to_the_left_and_those_of_a_terminal_are_as_they_were() {
    let state = State::new();
    Recording::of(&state, "web")
        .tty("a\nb\r\n")
        .bytes(Kind::Stdout, "c\n")
        .bytes(Kind::Stderr, "d\ne")
        .write(&state);
    let mut terminal = Terminal::spawn(&mut replay(&state, &["web"]));
    assert_eq!(terminal.finish(), 0);
    let seen = String::from_utf8_lossy(&terminal.seen).into_owned();
    assert_eq!(seen, "a\nb\r\nc\r\nd\r\ne\x1b[m\x0f\x1b(B");
}

#[test]
fn a_terminal_that_is_smaller_is_told_of() {
    let state = State::new();
    Recording::of(&state, "web").size(120, 50).tty("x").size(200, 60).tty("y").write(&state);
    let mut terminal = Terminal::spawn(&mut replay(&state, &["web"]));
    terminal.wait_for("the session had a terminal of 120x50, and this one has 100x40");
    terminal.wait_for("xy");
    assert_eq!(terminal.finish(), 0);
}

#[test]
fn without_an_index_all_comes_at_once_with_a_word_about_it() {
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
fn a_reader_that_goes_away_ends_it_without_a_word() {
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
fn what_can_not_be_played_is_one_line() {
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
