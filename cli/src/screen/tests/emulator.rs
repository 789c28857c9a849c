//! Compares the filtered output with tmux, which has a parser of its own.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};

use super::super::Screen;
use super::{SEQUENCES, any_output};

/// Shown without attributes after all other output.
const LAST_LINE: &str = "the end";

/// An independent terminal emulator, in which `cat` has written the output and waits for input.
struct Tmux {
    directory: tempfile::TempDir,
}

impl Tmux {
    /// `None` if tmux is not installed.
    fn showing(bytes: &[u8]) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let tmux = Self { directory };
        let last = format!("\r\n\x1b[K{LAST_LINE}");
        fs::write(tmux.file("bytes"), [bytes, last.as_bytes()].concat()).unwrap();
        fs::write(tmux.file("conf"), "set -g allow-rename on\n").unwrap();
        let script = format!(
            "stty raw -echo; cat '{}'; exec cat >'{}'",
            tmux.file("bytes").display(),
            tmux.file("typed").display(),
        );
        let started =
            tmux.command(&["new-session", "-d", "-n", "log", "-x", "80", "-y", "24", &script]);
        if started.is_err() {
            let missing = "tmux is missing: run .ci/install";
            assert!(std::env::var_os("VMON_REQUIRE_TERMINALS").is_none(), "{missing}");
            eprintln!("skipped: {missing}");
            return None;
        }
        tmux.wait("the whole output", || tmux.screen().lines().any(is_last));
        Some(tmux)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, args: &[&str]) -> std::io::Result<Output> {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.file("socket")).arg("-f").arg(self.file("conf")).args(args);
        // tmux runs the command with the user's login shell, which may be nologin.
        command.env("SHELL", "/bin/sh").stdin(Stdio::null()).env_remove("TMUX").output()
    }

    fn query(&self, args: &[&str]) -> String {
        String::from_utf8(self.command(args).unwrap().stdout).unwrap()
    }

    /// The contents of the screen, with attributes.
    fn screen(&self) -> String {
        self.query(&["capture-pane", "-p", "-e"])
    }

    fn wait(&self, what: &str, mut event: impl FnMut() -> bool) {
        let give_up = Instant::now() + Duration::from_secs(60);
        while !event() {
            assert!(Instant::now() < give_up, "timeout: {what}");
            let _ = poll(&mut [], PollTimeout::from(5_u8));
        }
    }

    /// The reported state of the terminal, without the cursor position.
    fn state(&self) -> String {
        // Replies of the terminal come before the key.
        self.command(&["send-keys", "Z"]).unwrap();
        self.wait("the key", || {
            fs::read(self.file("typed")).is_ok_and(|typed| typed.contains(&b'Z'))
        });
        self.query(&[
            "display-message",
            "-p",
            "alternate #{alternate_on} cursor #{cursor_flag} insert #{insert_flag} keypad #{keypad_flag} \
             cursor keys #{keypad_cursor_flag} mouse #{mouse_any_flag} #{mouse_sgr_flag} \
             origin #{origin_flag} region #{scroll_region_upper} #{scroll_region_lower} wrap #{wrap_flag} \
             tabs #{pane_tabs} title #{pane_title} window #{window_name}",
        ])
    }

    /// The replies of the terminal, without the key.
    fn typed(&self) -> Vec<u8> {
        fs::read(self.file("typed")).unwrap().into_iter().filter(|&byte| byte != b'Z').collect()
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]);
    }
}

/// Whether this is the last line, without attributes of its own: tmux writes the resets of the line
/// before in front of it.
fn is_last(mut line: &str) -> bool {
    let ends = ["\x1b[0m", "\x1b[39m", "\x1b[49m", "\x1b[59m", "\x0f"];
    while let Some(rest) = ends.iter().find_map(|end| line.strip_prefix(end)) {
        line = rest;
    }
    line == LAST_LINE
}

#[test]
fn tmux_shows_the_effect_of_sequences_that_are_not_filtered() {
    let Some(fresh) = Tmux::showing(b"") else { return };
    for sequence in [
        "\x1b[?1049h",
        "\x1b[?25l",
        "\x1b[2;5r",
        "\x1b[?1000h",
        "\x1b[?1h",
        "\x1bH",
        "\x1bkx\x1b\\",
    ] {
        let changed = Tmux::showing(sequence.as_bytes()).unwrap();
        assert_ne!(changed.state(), fresh.state(), "{sequence:?}");
        assert_eq!(changed.typed(), b"");
    }
    for question in ["\x1b[c", "\x1b[6n", "\x1b[>q"] {
        let asked = Tmux::showing(question.as_bytes()).unwrap();
        assert_eq!(asked.state(), fresh.state());
        assert_ne!(asked.typed(), b"", "{question:?}");
    }
}

fn leaves_a_terminal_as_it_was(screen: fn() -> Screen) {
    let Some(fresh) = Tmux::showing(b"") else { return };
    let expected = fresh.state();
    let mut random = fastrand::Rng::with_seed(3);
    let mut outputs: Vec<Vec<u8>> = SEQUENCES.iter().map(|sequence| sequence.to_vec()).collect();
    outputs.extend((0..400).map(|_| any_output(&mut random)));
    let mut all = Vec::new();
    for output in &outputs {
        let mut screen = screen();
        screen.filter(output, &mut all);
        screen.end(&mut all);
    }
    let tmux = Tmux::showing(&all).unwrap();
    assert_eq!(tmux.state(), expected);
    assert_eq!(tmux.typed().escape_ascii().to_string(), "");
}

#[test]
fn no_text_changes_a_terminal() {
    leaves_a_terminal_as_it_was(Screen::text);
}

#[test]
fn no_session_changes_a_terminal() {
    leaves_a_terminal_as_it_was(Screen::session);
}
