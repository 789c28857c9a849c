//! A rotate command whose start a test observes and whose end it controls.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::common::{State, eventually, write_program};

/// Works on its argument as gzip does, and lets the test see and hold it: it goes on when `hold` is
/// gone, as with the test's directory, and reports another one that works at the same time.
const WORK: &str = r#"#!/bin/sh
cd "${0%/*}" || exit 9
mkdir lock 2>/dev/null || echo "$1" >>overlaps
echo $$ >pid
echo "${1##*/}" >>names
echo "${1##*.}" >>begun
while [ -e hold ]; do sleep 0.02; done
gzip "$1"
status=$?
rmdir lock
echo "${1##*.}" >>ended
exit $status
"#;

/// Lines of 1,000 bytes.
pub const LINES: &str = "i=0; while [ $i -lt COUNT ]; do printf '%0999d\\n' $i; i=$((i + 1)); done";

pub struct Works {
    pub state: State,
    pub command: String,
}

impl Works {
    pub fn new() -> Self {
        let state = State::new();
        let script = state.file("work");
        write_program(&script, WORK, 0o700);
        let command = script.to_str().unwrap().to_owned();
        Self { state, command }
    }

    /// Whatever is begun from now on waits.
    pub fn hold(&self) {
        File::create(self.state.file("hold")).unwrap();
    }

    pub fn release(&self) {
        fs::remove_file(self.state.file("hold")).unwrap();
    }

    /// `vmon run` whose log is rotated after two lines; by default all generations are kept.
    pub fn run(&self, options: &[&str], lines: usize, then: &str) -> Command {
        let script = format!("{}; {then}", LINES.replace("COUNT", &lines.to_string()));
        self.run_script(options, &script)
    }

    /// The same for a command that writes arbitrary output.
    pub fn run_script(&self, options: &[&str], script: &str) -> Command {
        let mut all = vec!["--log-max-size", "2000", "--log-rotate-command", &self.command];
        if !options.contains(&"--log-max-files") {
            all.extend(["--log-max-files", "1000"]);
        }
        all.extend(options);
        let mut run = self.state.run("web", &all, script);
        run.stdout(Stdio::null());
        run
    }

    pub fn numbers(&self, file: &str) -> Vec<u32> {
        let text = fs::read_to_string(self.state.file(file)).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// The files that were worked on, in their order.
    pub fn names(&self) -> Vec<String> {
        let text = fs::read_to_string(self.state.file("names")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub fn wait_for_begun(&self, count: usize) {
        eventually("the work has begun", || self.numbers("begun").len() >= count);
    }

    /// Whoever works is on disk.
    pub fn wait_for_note(&self) {
        self.wait_for_note_of("web");
    }

    pub fn wait_for_note_of(&self, log: &str) {
        let noted = || fs::read_to_string(self.note_of(log)).is_ok_and(|note| note.contains(' '));
        eventually("it is noted who works", noted);
    }

    /// The process that works now.
    pub fn worker(&self) -> u32 {
        fs::read_to_string(self.state.file("pid")).unwrap().trim_end().parse().unwrap()
    }

    /// Generations that are not compressed, and those that are.
    pub fn generations(&self) -> (Vec<String>, Vec<String>) {
        self.generations_of("web")
    }

    pub fn generations_of(&self, log: &str) -> (Vec<String>, Vec<String>) {
        let names = self.state.generations(log).into_iter();
        let names = names.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
        let numbers = names.filter_map(|name| {
            let number = name.split_once(".log.")?.1.to_owned();
            (number.ends_with("gz") || number.bytes().all(|byte| byte.is_ascii_digit()))
                .then_some(number)
        });
        numbers.partition(|number| !number.ends_with("gz"))
    }

    /// No generation waits, and no command works.
    pub fn wait_for_all_done(&self) {
        self.wait_for_all_done_of(&["web"]);
    }

    pub fn wait_for_all_done_of(&self, logs: &[&str]) {
        for log in logs {
            let all_done = || self.generations_of(log).0.is_empty();
            eventually(&format!("all of {log} is compressed"), all_done);
            eventually(&format!("nothing of {log} waits"), || !self.note_of(log).exists());
        }
        assert!(!self.state.file("overlaps").exists(), "one at a time");
    }

    pub fn note(&self) -> PathBuf {
        self.note_of("web")
    }

    pub fn note_of(&self, log: &str) -> PathBuf {
        self.state.logs().join(format!("{log}.log.todo"))
    }

    /// All generations and the log, joined.
    pub fn whole(&self) -> Vec<u8> {
        self.whole_of("web")
    }

    pub fn whole_of(&self, log: &str) -> Vec<u8> {
        let (plain, compressed) = self.generations_of(log);
        assert!(plain.is_empty(), "{plain:?}");
        let mut whole = Vec::new();
        for number in compressed {
            let path = self.state.logs().join(format!("{log}.log.{number}"));
            let output = Command::new("gzip").arg("-cd").arg(path).output().unwrap();
            assert!(output.status.success(), "{number}: {output:?}");
            whole.extend(output.stdout);
        }
        whole.extend(self.state.log(log));
        whole
    }
}

/// What that many lines are.
pub fn lines(count: usize) -> Vec<u8> {
    (0..count).flat_map(|number| format!("{number:0999}\n").into_bytes()).collect()
}
