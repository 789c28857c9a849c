//! Floods: a pipe that is read less often while it is flooded, what that takes and gives back, and
//! that nothing of it shows in the bytes.

mod common;

/// The reactor's part, through its public interface.
mod loops {
    use std::cell::RefCell;
    use std::io::{self, PipeReader, Read, Write};
    use std::rc::Rc;
    use std::time::Duration;

    use vmon::reactor::{Context, Handler, Interest, Reactor, Ready, SourceId};

    /// Collects what a pipe gives, until its end.
    #[derive(Default)]
    struct Collect {
        source: Option<(PipeReader, SourceId)>,
        bytes: Vec<u8>,
        ended: bool,
    }

    impl Handler for Collect {
        type Source = ();
        type Timer = ();

        fn start(&mut self, _: &mut Context<'_, Self>) {}

        fn ready(&mut self, (): (), _: Ready, cx: &mut Context<'_, Self>) {
            let Some((reader, source)) = &mut self.source else { return };
            match reader.read(cx.scratch).unwrap() {
                0 => {
                    self.ended = true;
                    cx.sources.deregister(*source);
                }
                count => {
                    self.bytes.extend_from_slice(&cx.scratch[..count]);
                    cx.sources.short_read(*source);
                }
            }
        }

        fn timer(&mut self, (): (), _: &mut Context<'_, Self>) {}

        fn is_done(&self) -> bool {
            self.ended
        }
    }

    impl Collect {
        fn watch(&mut self, reader: PipeReader, cx: &mut Context<'_, Self>) -> SourceId {
            let source = cx.sources.register(&reader, Interest::READ, ()).unwrap();
            self.source = Some((reader, source));
            source
        }
    }

    #[test]
    fn a_muted_source_wakes_nobody_and_is_told_of_when_it_is_unmuted() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut reactor = Reactor::new().unwrap();
        let id = reactor.add(Collect::default());
        let source = reactor.call(id, |collect, cx| collect.watch(reader, cx)).unwrap();
        reactor.call(id, |_, cx| cx.sources.mute(source));
        writer.write_all(b"first").unwrap();
        reactor.poll_once(Some(Duration::ZERO)).unwrap();
        assert_eq!(reactor.get(id).unwrap().bytes, b"");
        reactor.call(id, |_, cx| cx.sources.unmute(source)).unwrap().unwrap();
        reactor.poll_once(None).unwrap();
        assert_eq!(reactor.get(id).unwrap().bytes, b"first");
        writer.write_all(b", second").unwrap();
        reactor.poll_once(None).unwrap();
        assert_eq!(reactor.get(id).unwrap().bytes, b"first, second");
    }

    #[test]
    fn the_end_of_a_muted_source_is_told_when_it_is_unmuted() {
        let (reader, writer) = io::pipe().unwrap();
        let mut reactor = Reactor::new().unwrap();
        let id = reactor.add(Collect::default());
        let source = reactor.call(id, |collect, cx| collect.watch(reader, cx)).unwrap();
        reactor.call(id, |_, cx| cx.sources.mute(source));
        drop(writer);
        reactor.poll_once(Some(Duration::ZERO)).unwrap();
        assert!(!reactor.get(id).unwrap().ended);
        reactor.call(id, |_, cx| cx.sources.unmute(source)).unwrap().unwrap();
        reactor.run().unwrap();
        assert!(reactor.get(id).unwrap().ended);
    }

    #[test]
    fn a_source_that_is_muted_can_be_deregistered_and_its_slot_used_again() {
        let (reader, _writer) = io::pipe().unwrap();
        let mut reactor = Reactor::new().unwrap();
        let id = reactor.add(Collect::default());
        let source = reactor.call(id, |collect, cx| collect.watch(reader, cx)).unwrap();
        reactor.call(id, |_, cx| cx.sources.mute(source));
        reactor.call(id, |_, cx| cx.sources.deregister(source));
        let (reader, mut writer) = io::pipe().unwrap();
        reactor.call(id, |collect, cx| collect.watch(reader, cx));
        // The old id is nobody's now, and its successor is not muted.
        reactor.call(id, |_, cx| cx.sources.mute(source));
        writer.write_all(b"bytes").unwrap();
        reactor.poll_once(None).unwrap();
        assert_eq!(reactor.get(id).unwrap().bytes, b"bytes");
    }

    /// Takes a byte a call of a pipe that always has more, and notes each call in the list of all.
    struct Nibble {
        name: char,
        calls: Rc<RefCell<Vec<(char, usize)>>>,
        source: Option<(PipeReader, SourceId)>,
    }

    impl Handler for Nibble {
        type Source = ();
        type Timer = ();

        fn start(&mut self, _: &mut Context<'_, Self>) {}

        fn ready(&mut self, (): (), _: Ready, cx: &mut Context<'_, Self>) {
            self.calls.borrow_mut().push((self.name, cx.scratch.len()));
            let Some((reader, _)) = &mut self.source else { return };
            assert_eq!(reader.read(&mut cx.scratch[..1]).unwrap(), 1);
        }

        fn timer(&mut self, (): (), _: &mut Context<'_, Self>) {}

        fn is_done(&self) -> bool {
            false
        }
    }

    #[test]
    fn who_has_waited_longest_comes_first_and_several_get_less_each() {
        let calls = Rc::new(RefCell::new(Vec::new()));
        let mut reactor = Reactor::new().unwrap();
        let mut add = |name| {
            let (reader, writer) = io::pipe().unwrap();
            let id = reactor.add(Nibble { name, calls: calls.clone(), source: None });
            reactor.call(id, |nibble, cx| {
                let source = cx.sources.register(&reader, Interest::READ, ()).unwrap();
                nibble.source = Some((reader, source));
            });
            writer
        };
        let mut flood = add('f');
        let mut keystroke = add('k');
        flood.write_all(&[0; 1000]).unwrap();
        for _ in 0..10 {
            reactor.poll_once(None).unwrap();
        }
        let whole = calls.borrow()[0].1;
        assert_eq!(calls.take(), vec![('f', whole); 10]);
        keystroke.write_all(&[0; 1000]).unwrap();
        for _ in 0..3 {
            reactor.poll_once(None).unwrap();
        }
        let calls = calls.take();
        let names: String = calls.iter().map(|(name, _)| name).collect();
        assert_eq!(names, "kfkfkf");
        assert!(calls[2..].iter().all(|(_, slice)| *slice < whole / 4), "{calls:?}");
    }

    #[test]
    fn what_a_handler_takes_of_the_allowance_others_lack_until_it_is_done_or_removed() {
        let mut reactor = Reactor::new().unwrap();
        let first = reactor.add(Collect::default());
        let second = reactor.add(Collect::default());
        let mut take = |id, bytes| reactor.call(id, |_, cx| cx.allowance.take(bytes)).unwrap();
        let mut all = 0;
        while take(first, 1 << 20) {
            all += 1 << 20;
        }
        assert!(all > 0);
        assert!(!take(second, 1 << 20));
        reactor.call(first, |_, cx| cx.allowance.give_back(1 << 20));
        assert!(reactor.call(second, |_, cx| cx.allowance.take(1 << 20)).unwrap());
        reactor.remove(first);
        assert!(reactor.call(second, |_, cx| cx.allowance.take(all - (1 << 20))).unwrap());
        // Nor when it is done.
        reactor.call(second, |collect, _| collect.ended = true);
        let third = reactor.add(Collect::default());
        assert!(reactor.call(third, |_, cx| cx.allowance.take(all)).unwrap());
        reactor.remove(third);
        // What one never took it can't give.
        let third = reactor.add(Collect::default());
        reactor.call(third, |_, cx| cx.allowance.give_back(all));
        assert!(!reactor.call(third, |_, cx| cx.allowance.take(all + 1)).unwrap());
    }
}

mod command {
    use std::fs::{self, File, OpenOptions};
    use std::io::{Read, Write};
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    use nix::fcntl::{FcntlArg, fcntl};

    use super::common::{
        State, Terminal, assert_same, code, eventually, has, is_alive, noise, wait,
    };

    /// The pipes that vmon reads its child's output from, opened anew.
    fn output_pipes(vmon: &Child, child: u32) -> Vec<File> {
        let link = |pid: u32, name: &str| fs::read_link(format!("/proc/{pid}/fd/{name}"));
        let theirs: Vec<PathBuf> = ["1", "2"].iter().map(|fd| link(child, fd).unwrap()).collect();
        let names = fs::read_dir(format!("/proc/{}/fd", vmon.id())).unwrap();
        let names = names.map(|name| name.unwrap().file_name().into_string().unwrap());
        let ours = names.filter(|name| {
            name.parse::<u32>().unwrap() > 2
                && link(vmon.id(), name).is_ok_and(|target| theirs.contains(&target))
        });
        let open = |name: String| {
            let path = format!("/proc/{}/fd/{name}", vmon.id());
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
        };
        ours.map(open).collect()
    }

    fn size(pipe: &File) -> usize {
        fcntl(pipe, FcntlArg::F_GETPIPE_SZ).unwrap() as usize
    }

    /// Private memory of a process in kB (`/proc/PID/smaps_rollup`, Anonymous).
    fn anonymous(pid: u32) -> u64 {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let line = rollup.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// A child that floods its stdout from one line of its input to the next, three times.
    struct Flooding {
        state: State,
        vmon: Child,
        input: std::process::ChildStdin,
        child: u32,
    }

    impl Flooding {
        fn start(flood: &str, options: &[&str]) -> Self {
            let script = format!(
                "echo here; for flood in 1 2 3; do
                read x; {flood} & read x; kill $!; wait; echo over $flood; done; read x"
            );
            let state = State::new();
            let mut vmon = state
                .run("x", &[&["--log-max-size", "1MiB"], options].concat(), &script)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let input = vmon.stdin.take().unwrap();
            state.wait_for_log("x", b"here");
            state.wait_for_status("x", "RUNNING");
            let child = state.run_column("x", "pid").unwrap().parse().unwrap();
            Self { state, vmon, input, child }
        }

        fn line(&mut self) {
            self.input.write_all(b"\n").unwrap();
        }

        fn finish(&mut self) {
            self.line();
            assert_eq!(code(wait(&mut self.vmon)), 0);
        }
    }

    #[test]
    fn what_floods_take_is_given_back_when_they_are_over() {
        let mut run = Flooding::start("yes", &["--no-forward"]);
        let pid = run.vmon.id();
        let pipes = output_pipes(&run.vmon, run.child);
        assert_eq!(pipes.len(), 2);
        let usual = size(&pipes[0]);
        let total = || pipes.iter().map(size).sum::<usize>();
        let mut memory = None;
        for flood in 1..=3 {
            run.line();
            if cfg!(not(vmon_coalesce = "never")) {
                eventually("the flooded pipe has grown", || total() > 2 * usual);
            }
            run.line();
            run.state.wait_for_log("x", format!("over {flood}").as_bytes());
            eventually("it has its own size again", || total() == 2 * usual);
            // What the first one left: the scratch buffer alone is 512 kB when all of it is used.
            let first = *memory.get_or_insert_with(|| anonymous(pid));
            eventually("the memory is given back", || anonymous(pid) < first + 100);
        }
        run.finish();
    }

    #[test]
    fn a_flooded_pipe_is_out_of_the_poller_from_time_to_time_and_back_in_afterwards() {
        if cfg!(any(vmon_coalesce = "never", mio_unsupported_force_poll_poll)) {
            return;
        }
        // Slower than any disk: a pipe that fills up while the log is written is not left alone.
        let mut run = Flooding::start("dd if=/dev/zero bs=1 status=none", &["--no-forward"]);
        // proc_pid_fdinfo(5): an epoll instance has a line for each file that it watches.
        let pipe = fs::metadata(format!("/proc/{}/fd/1", run.child)).unwrap().ino();
        let watched = format!(" ino:{pipe:x} ");
        let fds = format!("/proc/{}/fdinfo", run.vmon.id());
        let is_watched = || {
            let infos = fs::read_dir(&fds).unwrap().map(|info| info.unwrap().path());
            let mut infos = infos.filter_map(|info| fs::read_to_string(info).ok());
            let watches = |line: &str| line.starts_with("tfd:") && line.contains(&watched);
            infos.any(|info| info.lines().any(watches))
        };
        eventually("the pipe is in the poller", is_watched);
        run.line();
        eventually("the flooded pipe is out of it", || !is_watched());
        run.line();
        run.state.wait_for_log("x", b"over 1");
        eventually("it is back in", is_watched);
        for _ in 0..4 {
            run.line();
        }
        run.finish();
    }

    #[test]
    fn a_reader_that_stops_in_a_flood_costs_no_wake_ups_and_keeps_nothing_afterwards() {
        let mut run = Flooding::start("dd if=/dev/zero bs=1000 status=none", &[]);
        let status = format!("/proc/{}/status", run.vmon.id());
        let switches = || {
            let status = fs::read_to_string(&status).unwrap();
            let mut lines = status.lines().filter(|line| line.contains("voluntary_ctxt_switches"));
            lines.next().unwrap().to_owned()
        };
        let pipes = output_pipes(&run.vmon, run.child);
        let usual = size(&pipes[0]);
        let total = || pipes.iter().map(size).sum::<usize>();
        let mut reader = run.vmon.stdout.take().unwrap();
        run.line();
        let mut buffer = vec![0; 1 << 16];
        let grows = cfg!(not(vmon_coalesce = "never"));
        while grows && total() == 2 * usual {
            assert_ne!(reader.read(&mut buffer).unwrap(), 0);
        }
        // Nobody reads vmon's stdout. It has come to rest when it sleeps through the life of a
        // process that sleeps itself.
        eventually("it waits", || {
            let before = switches();
            assert!(Command::new("sleep").arg("1").status().unwrap().success());
            switches() == before
        });
        run.line();
        let reading = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        run.state.wait_for_log("x", b"over 1");
        eventually("the pipe has its own size again", || total() == 2 * usual);
        for _ in 0..4 {
            run.line();
        }
        run.finish();
        reading.join().unwrap().unwrap();
    }

    #[test]
    fn a_poller_that_is_full_for_a_while_delays_a_flood_and_loses_nothing_of_it() {
        // Every second call fails, from when everything is set up: mute and unmute are among them.
        let inject = "inject=epoll_ctl:error=ENOSPC:when=12+2";
        let strace = ["--seccomp-bpf", "-f", "-qq", "-o", "/dev/null", "-e", inject];
        let probe = Command::new("strace").args(strace).arg("true").status();
        if !probe.is_ok_and(|status| status.success()) {
            let _ = writeln!(std::io::stderr(), "skipped: a poller that is full: no strace");
            return;
        }
        let state = State::new();
        // After each burst it waits until the log has all of it: a lost edge is a hang.
        let script = "for burst in 0 1 2 3 4 5 6 7 8 9; do
            dd if=/dev/zero bs=100 count=3000 status=none; echo end $burst; read x; done";
        let run = state.run("x", &["--no-forward", "--log-max-size", "0"], script);
        let mut command = Command::new("strace");
        command.args(strace).arg(run.get_program()).args(run.get_args());
        command.env("VMON_STATE_DIR", state.path()).stdin(Stdio::piped());
        let mut traced = command.spawn().unwrap();
        let mut input = traced.stdin.take().unwrap();
        for burst in 0..10 {
            state.wait_for_log("x", format!("end {burst}\n").as_bytes());
            input.write_all(b"\n").unwrap();
        }
        assert_eq!(code(wait(&mut traced)), 0);
        assert_eq!(state.log("x").len(), 10 * (300_000 + "end 0\n".len()));
    }

    #[test]
    fn floods_with_pauses_between_them_lose_and_change_nothing() {
        let state = State::new();
        let sent = noise(4 << 20, 7);
        let file = state.file("sent");
        fs::write(&file, &sent).unwrap();
        // Small writes and large ones, bursts and pauses, one byte at the end.
        let script = format!(
            "f={}; i=0; while [ $i -lt 16 ]; do
                case $((i % 4)) in 0) b=64;; 1) b=1000;; 2) b=65536;; 3) b=262144;; esac
                dd if=$f iflag=skip_bytes,count_bytes skip=$((i * 262144)) count=262144 bs=$b status=none
                [ $((i % 3)) != 0 ] || sleep 0.02
                i=$((i + 1))
            done",
            file.display()
        );
        let output = state.run("x", &["--log-max-files", "100"], &script).output().unwrap();
        assert_eq!(code(output.status), 0);
        assert_same(&output.stdout, &sent, "what was forwarded");
        assert_same(&state.whole_log("x"), &sent, "the log");
    }

    #[test]
    fn a_flooding_child_that_is_stopped_leaves_all_it_wrote_in_the_log() {
        let state = State::new();
        let count = state.file("count");
        // It counts what it has written when TERM comes, and writes it on the way out.
        let script = format!(
            "trap 'echo $i >{}; exit 0' TERM; i=0; while :; do echo $i; i=$((i + 1)); done",
            count.display()
        );
        let mut vmon =
            state.run("x", &["--no-forward", "--log-max-files", "1000"], &script).spawn().unwrap();
        state.wait_for_log("x", b"5000");
        super::common::signal(&vmon, nix::sys::signal::Signal::SIGTERM);
        assert_eq!(code(wait(&mut vmon)), 0);
        let last: usize = fs::read_to_string(count).unwrap().trim().parse().unwrap();
        let log = String::from_utf8(state.whole_log("x")).unwrap();
        let lines: Vec<usize> = log.lines().map(|line| line.parse().unwrap()).collect();
        // The trap may come between the echo and the sum.
        assert!(lines.len() == last || lines.len() == last + 1, "{} of {last}", lines.len());
        assert!(lines.iter().copied().eq(0..lines.len()));
    }

    /// A keystroke and its echo: two polls; two reads; the child's input, the log, the terminal.
    const CALLS_A_KEYSTROKE: usize = 7;

    #[test]
    fn an_echoed_keystroke_costs_seven_system_calls() {
        if cfg!(mio_unsupported_force_poll_poll) {
            return; // that back end has calls of its own
        }
        if !has("strace") {
            let _ = writeln!(std::io::stderr(), "skipped: an echoed keystroke: no strace");
            return;
        }
        let state = State::new();
        let trace = state.file("trace");
        let echo = "stty raw -echo; printf ready; exec cat";
        let run = state.run("x", &[], echo);
        let mut strace = Command::new("strace");
        strace.arg("-o").arg(&trace).arg(run.get_program()).args(run.get_args());
        strace.env("VMON_STATE_DIR", state.path());
        let mut terminal = Terminal::spawn(&mut strace);
        terminal.wait_for("ready");
        let calls = || fs::read_to_string(&trace).unwrap().lines().count();
        // Until the first keys are through, the record is written and the terminal set up.
        let type_keys = |terminal: &mut Terminal, keys: usize| {
            for _ in 0..keys {
                terminal.send("k");
                terminal.wait_for("k");
            }
        };
        type_keys(&mut terminal, 20);
        let before = calls();
        type_keys(&mut terminal, 100);
        let after = calls();
        // Once a second the log is looked for by its name.
        let looks = 60;
        assert!(
            (after - before) <= 100 * CALLS_A_KEYSTROKE + looks,
            "{} calls for 100 keystrokes",
            after - before
        );
        let vmon = fs::read_to_string(format!("/proc/{0}/task/{0}/children", terminal.child.id()));
        let vmon: u32 = vmon.unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(vmon as i32),
            nix::sys::signal::Signal::SIGTERM,
        )
        .unwrap();
        terminal.finish();
        eventually("vmon has ended", || !is_alive(vmon));
    }
}
