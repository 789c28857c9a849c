//! The same with crun, which refuses a hybrid of both versions of cgroups: it is run where version 2
//! is not mounted.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::common::{Terminal, text};
use crate::scene::compare_with;

/// Takes this thread, and what it starts, to where crun works.
fn hide_unified() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .unwrap();
    // An error: it is not mounted.
    let _ = umount2("/sys/fs/cgroup/unified", MntFlags::MNT_DETACH);
}

#[test]
fn crun_gives_both_streams_and_the_exit_code() {
    compare_with("crun", |scene| {
        hide_unified();
        let command = &mut scene.container(&[], "echo out; echo err >&2; exit 7");
        let output = scene.see(command);
        assert_eq!(text(&output.stdout), "out\n");
        assert_eq!(text(&output.stderr), "err\n");
        assert_eq!(output.status.code(), Some(7));
        scene.note_end();
    });
}

#[test]
fn crun_gives_a_terminal() {
    compare_with("crun", |scene| {
        hide_unified();
        let script = "until stty size 2>/dev/null | grep .; do usleep 20000; done; read -r line; echo got $line; exit 4";
        let mut terminal = Terminal::spawn(&mut scene.container(&["-it"], script));
        terminal.wait_for("40 100\r\n");
        terminal.send("hello\n");
        terminal.wait_for("got hello\r\n");
        assert_eq!(terminal.finish(), 4);
        scene.note_end();
    });
}

#[test]
fn crun_runs_commands_and_stops() {
    compare_with("crun", |scene| {
        hide_unified();
        scene.start_prepared(&[], "trap 'exit 12' TERM", "while :; do usleep 20000; done");
        let command = &mut scene.exec(&[], "echo out; exit 9");
        let output = scene.see(command);
        assert_eq!(output.status.code(), Some(9), "{output:?}");
        let missing = &mut scene.on("exec", &[]);
        let output = scene.see(missing.arg("/missing"));
        assert_eq!(output.status.code(), Some(127), "{output:?}");
        let mut terminal = Terminal::spawn(
            &mut scene
                .exec(&["-it"], "until stty size 2>/dev/null | grep .; do usleep 20000; done"),
        );
        terminal.wait_for("40 100\r\n");
        assert_eq!(terminal.finish(), 0);
        let command = &mut scene.on("stop", &[]);
        scene.see(command);
        scene.note_end();
    });
}
