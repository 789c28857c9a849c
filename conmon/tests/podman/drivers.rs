//! Log drivers beside k8s-file, and what Podman reads of them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::common::{Process, eventually, ran, ran_well, text};
use crate::scene::{IMAGE, compare};

#[test]
fn none_keeps_nothing() {
    compare(|scene| {
        let command = &mut scene.container(&["--log-driver", "none"], "echo out; exit 3");
        let output = scene.see(command);
        assert_eq!(text(&output.stdout), "out\n");
        let command = &mut scene.on("logs", &[]);
        scene.see(command);
        let directory = scene.inspect("{{.StaticDir}}");
        assert!(!Path::new(&directory).join("ctr.log").exists());
    });
}

#[test]
fn passthrough_hands_the_streams_through() {
    compare(|scene| {
        let script = "cat; echo out; echo err >&2; stdout=$(readlink /proc/$$/fd/1); echo \"$stdout\" >/gate/stdout; exit 3";
        let input = scene.gate("input");
        fs::write(&input, "from the caller\n").unwrap();
        let mut command = scene.container(&["--log-driver", "passthrough"], script);
        command.stdin(Stdio::from(fs::File::open(&input).unwrap()));
        let output = crate::common::finish(crate::common::spawned(&mut command));
        assert_eq!(text(&output.stdout), "from the caller\nout\n", "{output:?}");
        assert_eq!(text(&output.stderr), "err\n");
        scene.note_output(&output);
        // The very pipe of this test.
        let stdout = fs::read_to_string(scene.gate("stdout")).unwrap();
        assert!(stdout.starts_with("pipe:"), "{stdout}");
        let command = &mut scene.on("logs", &[]);
        scene.see(command);
    });
}

/// A journal of this thread, and of what it starts.
struct Journal(#[allow(dead_code)] Process);

impl Journal {
    fn start() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        for directory in ["/run/systemd", "/run/log"] {
            fs::create_dir_all(directory).unwrap();
            mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        }
        fs::create_dir("/run/systemd/journal").unwrap();
        let mut journald = Command::new("/lib/systemd/systemd-journald");
        let journald = journald.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let journald = Process::spawn(journald);
        let is_there = || Path::new("/run/systemd/journal/socket").exists();
        eventually("the journal's socket", is_there);
        Self(journald)
    }

    /// These fields of all entries that the container has written, one entry a line.
    fn entries(&self, container: &str, fields: &[&str]) -> String {
        ran_well(Command::new("journalctl").arg("--sync"));
        let mut journalctl = Command::new("journalctl");
        journalctl.args(["--output", "json", "--all", &format!("CONTAINER_NAME={container}")]);
        let output = ran_well(&mut journalctl);
        let mut lines = String::new();
        for line in output.lines() {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            let values: Vec<_> =
                fields.iter().map(|field| format!("{field}={}", entry[field])).collect();
            lines.push_str(&values.join(" "));
            lines.push('\n');
        }
        lines
    }
}

#[test]
fn the_journal_has_the_same_fields() {
    compare(|scene| {
        let journal = Journal::start();
        let options = ["--log-driver", "journald", "--log-opt", "tag=marked"];
        let script = "echo out; echo err >&2; printf 'a\\tb\\n'; head -c 20000 /dev/zero | tr '\\0' x; echo; printf rest";
        let output = ran(&mut scene.container(&options, script));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let fields = [
            "MESSAGE",
            "PRIORITY",
            "CONTAINER_ID",
            "CONTAINER_ID_FULL",
            "CONTAINER_NAME",
            "CONTAINER_TAG",
            "SYSLOG_IDENTIFIER",
            "CONTAINER_PARTIAL_MESSAGE",
        ];
        let entries = journal.entries(&scene.name, &fields);
        let (out, err): (Vec<_>, Vec<_>) =
            entries.lines().partition(|line| line.contains("PRIORITY=\"6\""));
        assert!(out.len() >= 4 && err.len() == 1, "{entries}");
        assert!(out[0].contains("CONTAINER_TAG=\"marked\""), "{entries}");
        // Where the long line is cut depends on the reads.
        for line in out.iter().chain(&err).filter(|line| !line.contains("xxxx")) {
            scene.note("entry", line);
        }
        let length: usize = out.iter().map(|line| line.matches('x').count()).sum();
        assert_eq!(length, 20_000);
        let printed = ran(&mut scene.on("logs", &[]));
        assert!(text(&printed.stdout).starts_with("out\na\tb\nxxxx"), "{printed:?}");
        assert!(text(&printed.stdout).trim_end().ends_with("x\nrest"), "{printed:?}");
    });
}

#[test]
fn an_unknown_driver_is_refused_by_podman_itself() {
    compare(|scene| {
        let arguments = ["run", "--log-driver", "syslog", "--name", &scene.name, IMAGE, "true"];
        let output = scene.see(&mut scene.podman(arguments));
        assert_ne!(output.status.code(), Some(0));
    });
}
