//! The modes that a command sets in the user's terminal: undone on every way out, and set again for
//! each client that attaches.

#![cfg(target_os = "linux")]

use std::process::Command;

use crate::common::{
    Detached, State, Terminal, code, contains, eventually, own_test, raw, set_window, signal, size,
    spawn_piped, wait,
};
use nix::pty::Winsize;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::tcgetattr;
use nix::unistd::Pid;
use vmon::terminal::Modes;

/// What a full-screen program sets, as printf(1) takes it.
const SET: &str =
    r"\033[?1049h\033[?25l\033[?1000h\033[?1002h\033[?1006h\033[?1004h\033[?2004h\033[?1h\033[>1u";

/// Undoes all of it.
const UNDO: &str =
    "\x1b[<1u\x1b[?1049l\x1b[?25h\x1b[?1l\x1b[?1000l\x1b[?1002l\x1b[?1006l\x1b[?1004l\x1b[?2004l";

/// Sets all of it in another terminal.
const AGAIN: &str =
    "\x1b[?1049h\x1b[>1u\x1b[?25l\x1b[?1h\x1b[?1000h\x1b[?1002h\x1b[?1006h\x1b[?1004h\x1b[?2004h";

const LEAVE: &[u8] = b"\x10\x11";

/// A full-screen program that runs until it is stopped.
fn full_screen() -> String {
    format!("printf '{SET}'; echo ready; exec sleep 1000")
}

fn attach(state: &State, args: &[&str]) -> Command {
    let mut command = state.vmon();
    command.arg("attach").args(args);
    command
}

/// A full-screen program in the background.
fn background(state: &State) -> Detached {
    let web = Detached::start(state, &mut state.run("web", &["-dt"], &full_screen()));
    state.wait_for_log("web", b"ready");
    web
}

/// Spawns the command on a terminal, and waits until its output and raw mode are there.
#[track_caller]
fn shown(command: &mut Command) -> Terminal {
    let mut modes = None;
    let mut terminal = Terminal::spawn_on(command, |master| modes = tcgetattr(master).ok());
    terminal.wait_for("\x1b[?2004h");
    terminal.wait_for_modes(&raw(&modes.unwrap()));
    terminal
}

fn is_attached(state: &State, sessions: usize) {
    eventually("all are attached", || {
        let socket = state.path().join("run/Sandboxfile/web.sock");
        let status = vmon::control::Client::connect(socket).and_then(|mut client| client.status());
        status.is_ok_and(|status| status.sessions.len() == sessions)
    });
}

/// Asserts that all modes have been undone, and exactly once.
#[track_caller]
fn assert_undone(terminal: &Terminal) {
    let seen = String::from_utf8_lossy(&terminal.seen).into_owned();
    assert_eq!(seen.matches(UNDO).count(), 1, "{seen:?}");
    let mut modes = Modes::default();
    modes.scan(&terminal.seen);
    let mut left = Vec::new();
    modes.set(&mut left);
    assert_eq!(left.escape_ascii().to_string(), "", "{seen:?}");
}

type End = fn(&State, &mut Terminal);

/// Ends the command of a sandbox.
fn end_command(state: &State, name: &str) {
    let pid = state.run_column(name, "pid").unwrap().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

#[test]
fn the_end_of_a_foreground_run_undoes_the_modes_that_the_command_has_set() {
    let ends: [(End, i32); 4] = [
        (|state, _| end_command(state, "web"), 137),
        (|_, terminal| terminal.send("\x03"), 130),
        (|_, terminal| signal(&terminal.child, Signal::SIGTERM), 143),
        (|_, terminal| signal(&terminal.child, Signal::SIGHUP), 143),
    ];
    for (end, expected) in ends {
        let state = State::new();
        let mut terminal = shown(&mut state.run("web", &[], &full_screen()));
        end(&state, &mut terminal);
        assert_eq!(terminal.finish(), expected);
        assert_undone(&terminal);
    }
}

#[test]
fn every_way_out_of_attach_undoes_the_modes_that_the_command_has_set() {
    let ends: [(End, i32); 6] = [
        (|_, terminal| terminal.send(LEAVE), 0),
        (|state, _| end_command(state, "web"), 0),
        (|_, terminal| signal(&terminal.child, Signal::SIGTERM), 143),
        (|_, terminal| signal(&terminal.child, Signal::SIGHUP), 129),
        (|_, terminal| signal(&terminal.child, Signal::SIGINT), 130),
        (
            |state, _| {
                let pid = state.sandbox_column("web", "supervisor_pid").unwrap();
                kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
            },
            1,
        ),
    ];
    for (end, expected) in ends {
        let state = State::new();
        let _web = background(&state);
        let mut terminal = shown(&mut attach(&state, &["web"]));
        end(&state, &mut terminal);
        assert_eq!(terminal.finish(), expected, "{:?}", String::from_utf8_lossy(&terminal.seen));
        assert_undone(&terminal);
    }
}

#[test]
fn a_program_that_cleans_up_after_itself_leaves_nothing_to_undo() {
    let state = State::new();
    let script = r"printf '\033[?1049h\033[?2004hfull\033[?2004l\033[?1049lend'";
    let mut terminal = Terminal::spawn(&mut state.run("web", &["-t"], script));
    assert_eq!(terminal.finish(), 0);
    let seen = String::from_utf8_lossy(&terminal.seen).into_owned();
    assert!(seen.contains("\x1b[?1049lend"), "{seen:?}");
    assert_eq!(seen.matches("\x1b[?1049l").count(), 1, "{seen:?}");
}

/// A shell with job control on a terminal, in which the command is started.
fn in_shell(state: &State, command: &str) -> Terminal {
    let mut bash = Command::new("bash");
    bash.args(["--norc", "--noprofile", "--noediting", "-i"]).env("PS1", "prompt> ");
    bash.env("VMON_STATE_DIR", state.path()).env("HISTFILE", "").env("TERM", "dumb");
    let mut terminal = Terminal::spawn(&mut bash);
    terminal.wait_for("prompt> ");
    let before = terminal.modes();
    terminal.send(format!("{} {command}\n", env!("CARGO_BIN_EXE_vmon")));
    terminal.wait_for("\x1b[?2004h");
    terminal.wait_for_modes(&raw(&before));
    terminal
}

#[test]
fn modes_are_undone_while_vmon_is_suspended_and_set_again_when_it_continues() {
    for foreground in [false, true] {
        let state = State::new();
        std::fs::write(state.file("script"), full_screen()).unwrap();
        let run = format!("run --name web -- sh {}", state.file("script").display());
        let _web = (!foreground).then(|| background(&state));
        let mut terminal = in_shell(&state, if foreground { &run } else { "attach web" });
        kill(terminal.foreground(), Signal::SIGTSTP).unwrap();
        terminal.wait_for(UNDO);
        terminal.wait_for("prompt> ");
        terminal.send("fg\n");
        terminal.wait_for(AGAIN);
        let vmon = terminal.foreground();
        kill(vmon, Signal::SIGTERM).unwrap();
        terminal.wait_for(UNDO);
        terminal.wait_for("prompt> ");
    }
}

#[test]
fn a_scrolling_region_is_not_set_again_in_a_terminal_that_may_have_another_size() {
    const REGION: &str = "\x1b[1;24r";
    let script = format!(r"printf '\033[1;24r'; {}", full_screen());
    for foreground in [false, true] {
        let state = State::new();
        std::fs::write(state.file("script"), &script).unwrap();
        let run = format!("run --name web -- sh {}", state.file("script").display());
        let _web = (!foreground).then(|| {
            let web = Detached::start(&state, &mut state.run("web", &["-dt"], &script));
            state.wait_for_log("web", b"ready");
            web
        });
        let mut terminal = in_shell(&state, if foreground { &run } else { "attach web" });
        kill(terminal.foreground(), Signal::SIGTSTP).unwrap();
        terminal.wait_for(if foreground { "\x1b7\x1b[r\x1b8" } else { UNDO });
        terminal.wait_for("prompt> ");
        terminal.resize(28, 100);
        terminal.send("fg\n");
        terminal.wait_for("\x1b[?2004h");
        let seen = String::from_utf8_lossy(&terminal.seen).into_owned();
        // The program itself has set it in the first terminal.
        assert_eq!(seen.matches(REGION).count(), usize::from(foreground), "{seen:?}");
        kill(terminal.foreground(), Signal::SIGTERM).unwrap();
        terminal.wait_for(UNDO);
        terminal.wait_for("prompt> ");
    }
}

#[test]
fn a_program_with_a_scrolling_region_draws_it_again_after_vmon_was_suspended() {
    let state = State::new();
    let script = r"sleep 1000 & trap 'echo drawn; kill $!; exit 0' WINCH
        printf '\033[2;9r\033[?2004h'; wait";
    std::fs::write(state.file("script"), script).unwrap();
    let run = format!("run --name web -- sh {}", state.file("script").display());
    let mut terminal = in_shell(&state, &run);
    kill(terminal.foreground(), Signal::SIGTSTP).unwrap();
    terminal.wait_for("\x1b7\x1b[r\x1b8");
    terminal.wait_for("prompt> ");
    terminal.send("fg\n");
    terminal.wait_for("drawn");
    terminal.wait_for("prompt> ");
}

#[test]
fn each_client_gets_the_modes_that_were_set_before_it_attached() {
    let state = State::new();
    let _web = background(&state);
    for _ in 0..2 {
        let mut terminal = shown(&mut attach(&state, &["web"]));
        terminal.send(LEAVE);
        assert_eq!(terminal.finish(), 0);
        let seen = String::from_utf8_lossy(&terminal.seen).into_owned();
        // Nothing is printed on an alternate screen.
        assert!(seen.starts_with(AGAIN), "{seen:?}");
        assert_undone(&terminal);
    }
    // A pipe gets the output only.
    let mut client = spawn_piped(&mut attach(&state, &["web"]));
    is_attached(&state, 1);
    end_command(&state, "web");
    assert_eq!(code(wait(&mut client)), 0);
    assert_eq!(client.wait_with_output().unwrap().stdout, b"");
}

#[test]
fn attach_begins_with_a_line_on_how_to_detach() {
    let state = State::new();
    let _web = Detached::start(&state, &mut state.run("web", &["-dt"], "exec sleep 1000"));
    for (args, line) in [
        (&["web"][..], "detach with ctrl-p ctrl-q\r\n"),
        (&["web", "--detach-keys", "ctrl-x,y"], "detach with ctrl-x y\r\n"),
        (&["web", "--detach-keys", ""], "no keys detach\r\n"),
        (&["web", "--read-only"], "detach with ctrl-c, or ctrl-p ctrl-q\r\n"),
        (&["web", "--no-stdin"], "detach with ctrl-c\r\n"),
    ] {
        let mut terminal = Terminal::spawn(&mut attach(&state, args));
        terminal.wait_for(line);
        let seen = String::from_utf8_lossy(&terminal.seen).into_owned();
        assert!(seen.starts_with("vmon: attached to Sandboxfile/web; "), "{seen:?}");
    }
    let mut quiet = Terminal::spawn(&mut attach(&state, &["web", "--log-level", "error"]));
    signal(&quiet.child, Signal::SIGTERM);
    assert_eq!(quiet.finish(), 143);
    assert!(!contains(&quiet.seen, b"attached"));
}

/// Not a test: the program of the next test.
#[test]
#[ignore = "a program that another test runs"]
fn panics_after_output() {
    vmon::terminal::install_panic_hook();
    let mut modes = Modes::default();
    modes.scan(b"\x1b[?1049h\x1b[?25l");
    vmon::terminal::note_modes(&modes);
    panic!("the panic");
}

#[test]
fn the_panic_hook_undoes_the_modes_before_the_message() {
    let mut terminal = Terminal::spawn(&mut own_test(module_path!(), "panics_after_output"));
    terminal.wait_for("\x1b[?1049l\x1b[?25h");
    terminal.wait_for("the panic");
    assert_eq!(terminal.finish(), 101);
}

#[test]
fn the_tail_sends_no_queries_to_a_terminal_and_begins_with_a_whole_sequence() {
    let state = State::new();
    let script = r"printf 'before\033[31mred\033[6n\033[c\033[?25h'; stty raw -echo; exec cat";
    let _web = Detached::start(&state, &mut state.run("web", &["-dt"], script));
    state.wait_for_log("web", b"\x1b[?25h");
    // 20 bytes begin within `ESC [ 31 m`.
    let mut terminal = attached(&mut attach(&state, &["web", "--tail", "20"]));
    terminal.wait_for("red\x1b[?25h");
    terminal.send("\x1b[6n");
    // The output after the tail is not filtered.
    terminal.wait_for("\x1b[6n");
    terminal.send(LEAVE);
    assert_eq!(terminal.finish(), 0);
    let seen = String::from_utf8_lossy(&terminal.seen).into_owned();
    assert!(seen.contains("ctrl-q\r\nred\x1b[?25h\x1b[6n"), "{seen:?}");
    // A pipe gets the bytes unchanged.
    let mut client = spawn_piped(&mut attach(&state, &["web", "--tail", "12"]));
    is_attached(&state, 1);
    end_command(&state, "web");
    assert_eq!(code(wait(&mut client)), 0);
    assert_eq!(client.wait_with_output().unwrap().stdout, b"[c\x1b[?25h\x1b[6n");
}

#[test]
fn only_the_terminal_whose_size_is_in_effect_answers_queries() {
    let state = State::new();
    let script = "stty raw -echo; echo ready; exec cat -v";
    let mut host = Terminal::spawn(&mut state.run("web", &[], script));
    host.wait_for("ready");
    let mut client = attached(&mut attach(&state, &["web"]));
    client.resize(33, 99);
    let inner = state.run_column("web", "pid").unwrap();
    let inner = std::fs::File::open(format!("/proc/{inner}/fd/0")).unwrap();
    eventually("the client's size", || size(&inner).ws_row == 33);
    host.send("\x1b[3;1R");
    client.send("\x1b[4;1R");
    host.wait_for("^[[4;1R");
    // A key makes it the other way round.
    host.send("k");
    host.wait_for("k");
    client.send("\x1b[5;1R");
    host.send("\x1b[6;1R");
    host.wait_for("^[[6;1R");
    let log = String::from_utf8(state.log("web")).unwrap();
    assert!(log.contains("^[[4;1Rk") && log.contains("^[[6;1R"), "{log:?}");
    assert!(!log.contains("3;1R") && !log.contains("5;1R"), "{log:?}");
}

#[test]
fn attach_passes_on_the_size_in_pixels() {
    let state = State::new();
    let web = background(&state);
    let window = Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 1000, ws_ypixel: 800 };
    let mut terminal =
        Terminal::spawn_on(&mut attach(&state, &["web"]), |master| set_window(master, window));
    terminal.wait_for("\x1b[?2004h");
    let inner = std::fs::File::open(format!("/proc/{}/fd/0", web.pid)).unwrap();
    eventually("the size in pixels", || size(&inner) == window);
}

/// A program in raw mode that shows what it reads.
fn echo(state: &State) -> Detached {
    let script = "stty raw -echo; echo ready; exec cat";
    let web = Detached::start(state, &mut state.run("web", &["-dt"], script));
    state.wait_for_log("web", b"ready");
    web
}

#[track_caller]
fn attached(command: &mut Command) -> Terminal {
    let mut modes = None;
    let terminal = Terminal::spawn_on(command, |master| modes = tcgetattr(master).ok());
    terminal.wait_for_modes(&raw(&modes.unwrap()));
    terminal
}

#[test]
fn the_detach_keys_work_in_keyboard_protocols() {
    let state = State::new();
    let _web = echo(&state);
    for keys in
        ["\x1b[112;5u\x1b[113;5u", "\x1b[112;133u\x1b[113;133u", "\x1b[27;5;112~\x1b[27;5;113~"]
    {
        let mut terminal = attached(&mut attach(&state, &["web"]));
        terminal.send(format!("x{keys}"));
        assert_eq!(terminal.finish(), 0);
    }
    for key in ["\x1b[99;5u", "\x1b[27;5;99~"] {
        let mut terminal = attached(&mut attach(&state, &["web", "--read-only"]));
        terminal.send(key);
        assert_eq!(terminal.finish(), 0);
    }
    state.wait_for_log("web", b"ready\nxxx");
    assert!(!contains(&state.log("web"), b"112"));
}

#[test]
fn the_first_detach_key_alone_reaches_the_command() {
    let state = State::new();
    let _web = echo(&state);
    let mut terminal = attached(&mut attach(&state, &["web"]));
    terminal.send("\x10");
    terminal.wait_for("\x10");
    terminal.send("\x1b[112;5u");
    terminal.wait_for("\x1b[112;5u");
    terminal.send(LEAVE);
    assert_eq!(terminal.finish(), 0);
}

#[test]
fn the_detach_keys_in_a_bracketed_paste_are_text() {
    let state = State::new();
    let _web = echo(&state);
    let mut terminal = attached(&mut attach(&state, &["web"]));
    let paste = "\x1b[200~\x10\x11\x1b[201~";
    terminal.send(paste);
    terminal.wait_for(paste);
    terminal.send(LEAVE);
    assert_eq!(terminal.finish(), 0);
}
