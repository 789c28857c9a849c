//! The reactor alone, through its public interface: no edge is lost, no handler is called without
//! an event, and an id never names another.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vmon::reactor::{Context, Handler, HandlerId, Interest, Reactor, Ready, SourceId, TimerId};

/// How long anything may take before a test gives up on it: no more than a bound on failure.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A timer that is not to expire in a test.
const LONG: Duration = Duration::from_secs(3600);

type Cx<'a> = Context<'a, u32, u32>;

/// What a probe was called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Ready(u32),
    Timer(u32),
    Signal(i32),
}

type OnReady = Box<dyn FnMut(&mut Probe, u32, Ready, &mut Cx<'_>)>;
type OnTimer = Box<dyn FnMut(&mut Probe, u32, &mut Cx<'_>)>;

/// A handler that records its calls and otherwise does what the test sets.
#[derive(Default)]
struct Probe {
    started: u32,
    calls: Vec<Call>,
    done: bool,
    sources: HashMap<u32, SourceId>,
    timers: HashMap<u32, TimerId>,
    on_ready: Option<OnReady>,
    on_timer: Option<OnTimer>,
}

impl Probe {
    fn on_ready(f: impl FnMut(&mut Self, u32, Ready, &mut Cx<'_>) + 'static) -> Self {
        Self { on_ready: Some(Box::new(f)), ..Self::default() }
    }

    fn on_timer(f: impl FnMut(&mut Self, u32, &mut Cx<'_>) + 'static) -> Self {
        Self { on_timer: Some(Box::new(f)), ..Self::default() }
    }
}

impl Handler for Probe {
    type Source = u32;
    type Timer = u32;
    type Event = Infallible;

    fn start(&mut self, _: &mut Cx<'_>) {
        assert_eq!(self.calls, []);
        self.started += 1;
    }

    fn ready(&mut self, source: u32, ready: Ready, cx: &mut Cx<'_>) {
        self.calls.push(Call::Ready(source));
        if let Some(mut f) = self.on_ready.take() {
            f(self, source, ready, cx);
            self.on_ready = Some(f);
        }
    }

    fn timer(&mut self, timer: u32, cx: &mut Cx<'_>) {
        self.calls.push(Call::Timer(timer));
        if let Some(mut f) = self.on_timer.take() {
            f(self, timer, cx);
            self.on_timer = Some(f);
        }
    }

    fn signal(&mut self, signal: i32, _: &mut Cx<'_>) {
        self.calls.push(Call::Signal(signal));
    }

    fn is_done(&self) -> bool {
        self.done
    }
}

/// A non-blocking pipe.
fn pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    set_nonblocking(&reader);
    set_nonblocking(&writer);
    (reader, writer)
}

fn set_nonblocking(fd: &impl AsFd) {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap());
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
}

fn register(
    reactor: &mut Reactor<Probe>,
    id: HandlerId,
    fd: &impl AsFd,
    interest: Interest,
    name: u32,
) -> SourceId {
    reactor
        .call(id, |probe, cx| {
            let source = cx.sources.register(fd, interest, name).unwrap();
            probe.sources.insert(name, source);
            source
        })
        .unwrap()
}

fn want(reactor: &mut Reactor<Probe>, id: HandlerId, source: SourceId, interest: Interest) {
    reactor.call(id, |_, cx| cx.sources.want(source, interest)).unwrap().unwrap();
}

fn set(reactor: &mut Reactor<Probe>, id: HandlerId, after: Duration, name: u32) -> TimerId {
    reactor
        .call(id, |probe, cx| {
            let timer = cx.timers.set(after, name);
            probe.timers.insert(name, timer);
            timer
        })
        .unwrap()
}

/// One turn that does not wait: what has happened before it is seen in it.
fn turn<H: Handler>(reactor: &mut Reactor<H>) {
    reactor.poll_once(Some(Duration::ZERO)).unwrap();
}

/// The calls since this was last asked.
fn calls(reactor: &mut Reactor<Probe>, id: HandlerId) -> Vec<Call> {
    reactor.call(id, |probe, _| std::mem::take(&mut probe.calls)).unwrap()
}

/// Turns until the probe has been called this often.
#[track_caller]
fn turn_until(reactor: &mut Reactor<Probe>, id: HandlerId, count: usize) -> Vec<Call> {
    let give_up = Instant::now() + TIMEOUT;
    while reactor.get(id).unwrap().calls.len() < count {
        assert!(Instant::now() < give_up, "called for {:?} only", reactor.get(id).unwrap().calls);
        reactor.poll_once(Some(TIMEOUT)).unwrap();
    }
    calls(reactor, id)
}

#[test]
fn a_handler_is_started_once_by_the_next_turn_which_does_not_wait() {
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(Probe::default());
    assert_eq!(reactor.get(id).unwrap().started, 0);
    assert!(reactor.next_deadline().is_some_and(|at| at <= Instant::now()));
    reactor.poll_once(None).unwrap();
    assert_eq!(reactor.get(id).unwrap().started, 1);
    reactor.poll_once(Some(Duration::ZERO)).unwrap();
    assert_eq!(reactor.get(id).unwrap().started, 1);
    assert!(reactor.next_deadline().is_none());
}

#[test]
fn a_call_starts_a_handler_first_and_the_turn_after_it_waits_for_events() {
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(Probe::default());
    assert_eq!(reactor.call(id, |probe, _| probe.started), Some(1));
    set(&mut reactor, id, Duration::from_millis(1), 7);
    reactor.poll_once(None).unwrap();
    assert_eq!(reactor.get(id).unwrap().calls, [Call::Timer(7)]);
    assert_eq!(reactor.get(id).unwrap().started, 1);
}

#[test]
fn a_handler_that_is_removed_before_its_start_is_never_started() {
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(Probe::default());
    assert_eq!(reactor.remove(id).unwrap().started, 0);
    assert!(reactor.next_deadline().is_none());
    let next = reactor.add(Probe::default());
    reactor.poll_once(None).unwrap();
    assert_eq!(reactor.get(next).unwrap().started, 1);
}

#[test]
fn handlers_that_are_added_in_every_turn_keep_no_other_from_its_events() {
    let (reader, mut writer) = pipe();
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(reads(reader.try_clone().unwrap(), 1));
    register(&mut reactor, id, &reader, Interest::READ, 0);
    writer.write_all(b"x").unwrap();
    for _ in 0..4 {
        reactor.add(Probe { done: true, ..Probe::default() });
        reactor.poll_once(None).unwrap();
    }
    assert!(reactor.get(id).unwrap().calls.contains(&Call::Ready(0)));
}

#[test]
fn an_edge_that_came_while_a_source_was_not_wanted_is_kept() {
    let (reader, mut writer) = pipe();
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(Probe::default());
    let source = register(&mut reactor, id, &reader, Interest::NONE, 1);
    writer.write_all(b"x").unwrap();
    turn(&mut reactor);
    turn(&mut reactor);
    assert_eq!(calls(&mut reactor, id), []);
    assert_eq!(reactor.next_deadline(), None);
    want(&mut reactor, id, source, Interest::READ);
    turn(&mut reactor);
    assert_eq!(calls(&mut reactor, id), [Call::Ready(1)]);
}

#[test]
fn an_edge_that_was_not_used_up_is_kept_over_a_pause() {
    let (reader, mut writer) = pipe();
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(Probe::default());
    let source = register(&mut reactor, id, &reader, Interest::READ, 1);
    writer.write_all(b"x").unwrap();
    turn(&mut reactor);
    assert_eq!(calls(&mut reactor, id), [Call::Ready(1)]);
    for _ in 0..3 {
        want(&mut reactor, id, source, Interest::NONE);
        turn(&mut reactor);
        assert_eq!(calls(&mut reactor, id), []);
        want(&mut reactor, id, source, Interest::READ);
        turn(&mut reactor);
        assert_eq!(calls(&mut reactor, id), [Call::Ready(1)]);
    }
}

/// A probe that reads at most `most` bytes a call from `reader`, into the vector of what it got.
fn reads(reader: PipeReader, most: usize) -> Probe {
    Probe::on_ready(move |probe, name, ready, cx| {
        assert!(ready.is_readable());
        let blocked = match (&reader).read(&mut cx.scratch[..most]) {
            Ok(0) => {
                probe.done = true;
                return cx.sources.deregister(probe.sources[&name]);
            }
            Ok(_) => return,
            Err(error) => error.kind(),
        };
        assert_eq!(blocked, io::ErrorKind::WouldBlock);
        cx.sources.would_block(probe.sources[&name], Interest::READ);
    })
}

#[test]
fn a_handler_that_takes_a_little_each_turn_is_called_until_it_has_taken_all() {
    let (reader, mut writer) = pipe();
    writer.write_all(&[b'x'; 100]).unwrap();
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(reads(reader.try_clone().unwrap(), 10));
    register(&mut reactor, id, &reader, Interest::READ, 1);
    for _ in 0..10 {
        turn(&mut reactor);
        assert!(reactor.next_deadline().is_some_and(|at| at <= Instant::now()));
    }
    // The eleventh call finds it empty.
    turn(&mut reactor);
    assert_eq!(calls(&mut reactor, id), [Call::Ready(1); 11]);
    assert_eq!(reactor.next_deadline(), None);
    turn(&mut reactor);
    assert_eq!(calls(&mut reactor, id), []);
    writer.write_all(b"x").unwrap();
    turn(&mut reactor);
    assert_eq!(calls(&mut reactor, id), [Call::Ready(1)]);
}

#[test]
fn a_poll_does_not_wait_while_a_source_has_more_to_give() {
    let (reader, mut writer) = pipe();
    writer.write_all(b"xy").unwrap();
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(reads(reader.try_clone().unwrap(), 1));
    register(&mut reactor, id, &reader, Interest::READ, 1);
    // Without a timeout, and without a further edge: the test would never end.
    for _ in 0..3 {
        reactor.poll_once(None).unwrap();
    }
    assert_eq!(calls(&mut reactor, id), [Call::Ready(1); 3]);
}

#[test]
fn a_file_that_epoll_refuses_is_always_ready() {
    let regular = tempfile::tempfile().unwrap();
    let null = File::open("/dev/null").unwrap();
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(Probe::on_ready(|probe, name, _, cx| {
        // Such a source never blocks, whatever a handler reports.
        cx.sources.would_block(probe.sources[&name], Interest::BOTH);
        cx.sources.short_read(probe.sources[&name]);
    }));
    let sources = [
        register(&mut reactor, id, &regular, Interest::READ, 1),
        register(&mut reactor, id, &null, Interest::READ, 2),
    ];
    for _ in 0..3 {
        // It waits for nothing, so each turn may be without a bound.
        reactor.poll_once(None).unwrap();
        assert_eq!(calls(&mut reactor, id), [Call::Ready(1), Call::Ready(2)]);
        assert!(reactor.next_deadline().is_some_and(|at| at <= Instant::now()));
    }
    for source in sources {
        want(&mut reactor, id, source, Interest::NONE);
    }
    turn(&mut reactor);
    assert_eq!(calls(&mut reactor, id), []);
    assert_eq!(reactor.next_deadline(), None);
    want(&mut reactor, id, sources[1], Interest::WRITE);
    turn(&mut reactor);
    assert_eq!(calls(&mut reactor, id), [Call::Ready(2)]);
}

/// Reads a pipe as a relay does: one read a call, a short one counts as the last. `between` is
/// done after the read and before the reactor is informed of it.
fn short_reads(reader: PipeReader, mut between: impl FnMut() + 'static) -> Probe {
    Probe::on_ready(move |probe, name, _, cx| match (&reader).read(cx.scratch) {
        Ok(0) => {
            probe.done = true;
            cx.sources.deregister(probe.sources[&name]);
        }
        Ok(count) => {
            assert!(count < cx.scratch.len());
            between();
            cx.sources.short_read(probe.sources[&name]);
        }
        Err(_) => cx.sources.would_block(probe.sources[&name], Interest::READ),
    })
}

#[test]
fn the_end_of_a_pipe_is_reported_after_a_short_read() {
    // The end comes before the poll, so there is one edge for all.
    let (reader, mut writer) = pipe();
    writer.write_all(&[b'x'; 100]).unwrap();
    drop(writer);
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(short_reads(reader.try_clone().unwrap(), || {}));
    register(&mut reactor, id, &reader, Interest::READ, 1);
    turn_until(&mut reactor, id, 2);
    assert!(reactor.is_done());
}

#[test]
fn an_end_between_a_short_read_and_its_report_is_not_lost() {
    let (reader, mut writer) = pipe();
    writer.write_all(&[b'x'; 100]).unwrap();
    let mut writer = Some(writer);
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(short_reads(reader.try_clone().unwrap(), move || drop(writer.take())));
    register(&mut reactor, id, &reader, Interest::READ, 1);
    turn_until(&mut reactor, id, 2);
    assert!(reactor.is_done());
}

#[test]
fn bytes_between_a_short_read_and_its_report_are_not_lost() {
    let (reader, mut writer) = pipe();
    writer.write_all(&[b'x'; 100]).unwrap();
    let mut rounds = 3;
    let mut reactor = Reactor::new().unwrap();
    let mut again = writer.try_clone().unwrap();
    let id = reactor.add(short_reads(reader.try_clone().unwrap(), move || {
        if rounds > 0 {
            rounds -= 1;
            again.write_all(b"more").unwrap();
        }
    }));
    register(&mut reactor, id, &reader, Interest::READ, 1);
    turn_until(&mut reactor, id, 4);
    turn(&mut reactor);
    // And after the last nothing is taken for more.
    assert_eq!(reactor.next_deadline(), None);
}

#[test]
fn a_writer_becomes_ready_when_there_is_room_and_when_its_reader_closes() {
    let (mut reader, writer) = pipe();
    let mut reactor = Reactor::new().unwrap();
    let filler = writer.try_clone().unwrap();
    let id = reactor.add(Probe::on_ready(move |probe, name, ready, cx| {
        assert!(ready.is_writable() && !ready.is_readable());
        match (&filler).write(cx.scratch) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                cx.sources.would_block(probe.sources[&name], Interest::WRITE);
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
                cx.sources.deregister(probe.sources[&name]);
                probe.done = true;
            }
        }
    }));
    register(&mut reactor, id, &writer, Interest::WRITE, 1);
    while reactor.next_deadline().is_some() || reactor.get(id).unwrap().calls.is_empty() {
        turn(&mut reactor);
    }
    calls(&mut reactor, id);
    turn(&mut reactor);
    assert_eq!(calls(&mut reactor, id), []);
    reader.read_exact(&mut [0; 64 * 1024]).unwrap();
    turn_until(&mut reactor, id, 1);
    drop(reader);
    while !reactor.is_done() {
        reactor.poll_once(Some(TIMEOUT)).unwrap();
    }
}

#[test]
fn a_writable_source_is_reported_at_once_when_writing_is_wanted_later() {
    let (_reader, writer) = pipe();
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(Probe::default());
    let source = register(&mut reactor, id, &writer, Interest::NONE, 1);
    turn(&mut reactor);
    assert_eq!(calls(&mut reactor, id), []);
    want(&mut reactor, id, source, Interest::WRITE);
    assert_eq!(turn_until(&mut reactor, id, 1), [Call::Ready(1)]);
}

#[test]
fn a_source_that_always_has_more_starves_no_other() {
    let regular = tempfile::tempfile().unwrap();
    let pipes: Vec<_> = (0..3).map(|_| pipe()).collect();
    let mut reactor = Reactor::new().unwrap();
    let flood = reactor.add(Probe::default());
    register(&mut reactor, flood, &regular, Interest::READ, 1);
    let ids: Vec<_> = pipes
        .iter()
        .map(|(reader, _)| {
            let id = reactor.add(reads(reader.try_clone().unwrap(), 1));
            register(&mut reactor, id, reader, Interest::READ, 1);
            id
        })
        .collect();
    for _ in 0..5 {
        for (_, writer) in &pipes {
            (&*writer).write_all(b"x").unwrap();
        }
        turn(&mut reactor);
        assert_eq!(calls(&mut reactor, flood), [Call::Ready(1)]);
        for &id in &ids {
            assert_eq!(calls(&mut reactor, id), [Call::Ready(1)]);
        }
    }
}

#[test]
fn a_source_that_is_registered_anew_at_every_call_starves_no_other() {
    let regular = tempfile::tempfile().unwrap();
    let (reader, mut writer) = pipe();
    let mut reactor = Reactor::new().unwrap();
    let again = regular.try_clone().unwrap();
    let greedy = reactor.add(Probe::on_ready(move |probe, name, _, cx| {
        cx.sources.deregister(probe.sources[&name]);
        let source = cx.sources.register(&again, Interest::READ, name).unwrap();
        probe.sources.insert(name, source);
    }));
    register(&mut reactor, greedy, &regular, Interest::READ, 1);
    let other = reactor.add(reads(reader.try_clone().unwrap(), 1));
    register(&mut reactor, other, &reader, Interest::READ, 1);
    for _ in 0..5 {
        writer.write_all(b"x").unwrap();
        for _ in 0..2 {
            turn(&mut reactor);
        }
        assert!(!calls(&mut reactor, other).is_empty());
        assert!(!calls(&mut reactor, greedy).is_empty());
    }
}

#[test]
fn a_spurious_readiness_has_no_effect() {
    // Both get an event for each byte, but only one of them reads it.
    let (reader, mut writer) = pipe();
    let mut reactor = Reactor::new().unwrap();
    let fds = [reader.try_clone().unwrap(), reader];
    let ids = fds.each_ref().map(|fd| {
        let id = reactor.add(reads(fd.try_clone().unwrap(), 64));
        register(&mut reactor, id, fd, Interest::READ, 1);
        id
    });
    for _ in 0..3 {
        writer.write_all(b"x").unwrap();
        for id in ids {
            turn_until(&mut reactor, id, 1);
        }
        while reactor.next_deadline().is_some() {
            turn(&mut reactor);
        }
        for id in ids {
            calls(&mut reactor, id);
        }
    }
}

#[test]
fn timers_expire_in_the_order_of_their_instants() {
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(Probe::default());
    for (after, name) in [(30, 4), (10, 2), (20, 3), (0, 1)] {
        set(&mut reactor, id, Duration::from_millis(after), name);
    }
    let expected = [1, 2, 3, 4].map(Call::Timer);
    assert_eq!(turn_until(&mut reactor, id, 4), expected);
    assert_eq!(reactor.next_deadline(), None);
}

#[test]
fn a_timer_never_expires_early() {
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(Probe::default());
    let after = Duration::from_millis(20);
    let due = Instant::now() + after;
    set(&mut reactor, id, after, 1);
    turn_until(&mut reactor, id, 1);
    assert!(Instant::now() >= due);
}

#[test]
fn a_cancelled_timer_does_not_expire() {
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(Probe::default());
    let first = set(&mut reactor, id, Duration::from_millis(1), 1);
    set(&mut reactor, id, Duration::from_millis(10), 2);
    reactor.call(id, |_, cx| cx.timers.cancel(first));
    assert_eq!(turn_until(&mut reactor, id, 1), [Call::Timer(2)]);
}

#[test]
fn a_timer_cancels_one_that_is_due_in_the_same_turn() {
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(Probe::on_timer(|probe, name, cx| {
        if name == 1 {
            cx.timers.cancel(probe.timers[&2]);
        }
    }));
    for name in [1, 2, 3] {
        set(&mut reactor, id, Duration::ZERO, name);
    }
    assert_eq!(turn_until(&mut reactor, id, 2), [1, 3].map(Call::Timer));
    // One that has expired is none any more.
    let expired = reactor.get(id).unwrap().timers[&1];
    set(&mut reactor, id, Duration::ZERO, 4);
    reactor.call(id, |_, cx| cx.timers.cancel(expired));
    assert_eq!(turn_until(&mut reactor, id, 1), [Call::Timer(4)]);
}

#[test]
fn a_timer_set_by_a_timer_waits_for_the_next_turn() {
    let (reader, mut writer) = pipe();
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(Probe::on_timer(|_, name, cx| {
        cx.timers.set(Duration::ZERO, name + 1);
    }));
    register(&mut reactor, id, &reader, Interest::READ, 9);
    set(&mut reactor, id, Duration::ZERO, 1);
    for name in 1..=3 {
        turn(&mut reactor);
        assert_eq!(calls(&mut reactor, id), [Call::Timer(name)]);
    }
    // Nor does it keep the sources from their turn.
    writer.write_all(b"x").unwrap();
    turn(&mut reactor);
    assert_eq!(calls(&mut reactor, id), [Call::Timer(4), Call::Ready(9)]);
}

#[test]
fn a_timer_beyond_the_range_of_the_clock_never_expires() {
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(Probe::default());
    set(&mut reactor, id, Duration::MAX, 1);
    turn(&mut reactor);
    assert_eq!(calls(&mut reactor, id), []);
    assert!(reactor.next_deadline().is_some_and(|at| at > Instant::now() + LONG));
}

#[test]
fn the_next_deadline_is_the_first_timer_or_now_or_none() {
    let (reader, mut writer) = pipe();
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(reads(reader.try_clone().unwrap(), 64));
    reactor.call(id, |_, _| ());
    assert_eq!(reactor.next_deadline(), None);
    let before = Instant::now();
    let timer = set(&mut reactor, id, LONG, 1);
    set(&mut reactor, id, 2 * LONG, 2);
    let deadline = reactor.next_deadline().unwrap();
    assert!(deadline >= before + LONG && deadline <= Instant::now() + LONG);
    register(&mut reactor, id, &reader, Interest::READ, 1);
    // Nothing is ready that the descriptor would not report.
    assert_eq!(reactor.next_deadline(), Some(deadline));
    writer.write_all(b"x").unwrap();
    turn(&mut reactor);
    assert!(reactor.next_deadline().is_some_and(|at| at <= Instant::now()));
    turn(&mut reactor);
    assert_eq!(reactor.next_deadline(), Some(deadline));
    reactor.call(id, |_, cx| cx.timers.cancel(timer));
    assert!(reactor.next_deadline().unwrap() >= before + 2 * LONG);
    reactor.remove(id);
    assert_eq!(reactor.next_deadline(), None);
}

/// Signals reach the whole process, so each test has one of its own.
struct Signalled(&'static str);

static SIGNALLED: Mutex<Vec<(&str, i32)>> = Mutex::new(Vec::new());

impl Handler for Signalled {
    type Source = ();
    type Timer = ();
    type Event = Infallible;

    fn start(&mut self, _: &mut Context<'_, (), ()>) {}

    fn ready(&mut self, (): (), _: Ready, _: &mut Context<'_, (), ()>) {}

    fn timer(&mut self, (): (), _: &mut Context<'_, (), ()>) {}

    fn signal(&mut self, signal: i32, _: &mut Context<'_, (), ()>) {
        SIGNALLED.lock().unwrap().push((self.0, signal));
    }

    fn after_signal(signal: i32) {
        SIGNALLED.lock().unwrap().push(("after", signal));
    }

    fn is_done(&self) -> bool {
        true
    }
}

#[test]
fn every_handler_gets_a_watched_signal_and_then_after_signal_is_called() {
    let mut reactor = Reactor::new().unwrap();
    let names = ["first", "second", "third"];
    let ids = names.map(|name| reactor.add(Signalled(name)));
    reactor.remove(ids[1]);
    reactor.watch_signals([Signal::SIGUSR1 as i32]).unwrap();
    reactor.watch_signals([Signal::SIGUSR2 as i32]).unwrap();
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGUSR1] {
        kill(Pid::this(), signal).unwrap();
        let give_up = Instant::now() + TIMEOUT;
        while !SIGNALLED.lock().unwrap().contains(&("after", signal as i32)) {
            assert!(Instant::now() < give_up, "{signal} was not reported");
            reactor.poll_once(Some(TIMEOUT)).unwrap();
        }
        let reported = std::mem::take(&mut *SIGNALLED.lock().unwrap());
        let expected = ["first", "third", "after"].map(|name| (name, signal as i32));
        assert_eq!(reported, expected);
    }
}

#[test]
fn a_signal_that_can_not_be_watched_is_an_error() {
    let mut reactor = Reactor::<Probe>::new().unwrap();
    // The second time, some are watched already.
    for _ in 0..2 {
        for signal in [Signal::SIGKILL as i32, Signal::SIGSTOP as i32, 0, -1, 500] {
            let error = reactor.watch_signals([Signal::SIGWINCH as i32, signal]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "signal {signal}");
        }
        reactor.watch_signals([Signal::SIGWINCH as i32]).unwrap();
    }
}

#[test]
fn a_waker_ends_a_poll_from_another_thread_each_time() {
    let mut reactor = Reactor::<Probe>::new().unwrap();
    let waker = reactor.waker().unwrap();
    for _ in 0..3 {
        let other = waker.clone();
        let thread = thread::spawn(move || other.wake());
        let start = Instant::now();
        reactor.poll_once(Some(TIMEOUT)).unwrap();
        assert!(start.elapsed() < TIMEOUT);
        thread.join().unwrap().unwrap();
    }
    // Also before the poll; and a second handle is as good.
    reactor.waker().unwrap().wake().unwrap();
    let start = Instant::now();
    reactor.poll_once(Some(TIMEOUT)).unwrap();
    assert!(start.elapsed() < TIMEOUT);
}

#[test]
fn a_removed_handler_gets_nothing_more() {
    let (reader, mut writer) = pipe();
    let regular = tempfile::tempfile().unwrap();
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(Probe::default());
    let stays = reactor.add(Probe::default());
    register(&mut reactor, id, &reader, Interest::READ, 1);
    register(&mut reactor, id, &regular, Interest::READ, 2);
    set(&mut reactor, id, Duration::ZERO, 3);
    set(&mut reactor, stays, Duration::ZERO, 4);
    writer.write_all(b"x").unwrap();
    let probe = reactor.remove(id).unwrap();
    assert_eq!(turn_until(&mut reactor, stays, 1), [Call::Timer(4)]);
    assert_eq!(reactor.next_deadline(), None);
    assert_eq!(probe.calls, []);
    assert!(reactor.get(id).is_none() && reactor.remove(id).is_none());
    assert!(reactor.call(id, |_, _| ()).is_none());
    // Its descriptor is free to be watched by another.
    register(&mut reactor, stays, &reader, Interest::READ, 5);
    assert_eq!(turn_until(&mut reactor, stays, 1), [Call::Ready(5)]);
}

#[test]
fn a_source_that_is_deregistered_in_a_turn_is_not_called_in_it() {
    let pipes = [pipe(), pipe()];
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(Probe::on_ready(|probe, name, _, cx| {
        let other = probe.sources[&(3 - name)];
        cx.sources.deregister(other);
        cx.sources.would_block(probe.sources[&name], Interest::READ);
    }));
    for (name, (reader, writer)) in (1..).zip(&pipes) {
        register(&mut reactor, id, reader, Interest::READ, name);
        (&*writer).write_all(b"x").unwrap();
    }
    turn_until(&mut reactor, id, 1);
    for (_, writer) in &pipes {
        (&*writer).write_all(b"x").unwrap();
    }
    turn(&mut reactor);
    let calls = calls(&mut reactor, id);
    assert_eq!(calls.len(), 1, "{calls:?}");
}

#[test]
fn a_source_in_a_slot_that_was_freed_inherits_no_readiness() {
    let (reader, mut writer) = pipe();
    let (silent, _open) = pipe();
    let regular = tempfile::tempfile().unwrap();
    let mut reactor = Reactor::new().unwrap();
    let fresh = silent.try_clone().unwrap();
    let id = reactor.add(Probe::on_ready(move |probe, name, _, cx| {
        if name == 1 {
            // Both others are ready and have their turn yet to come.
            for name in [2, 3] {
                cx.sources.deregister(probe.sources[&name]);
            }
            cx.sources.deregister(probe.sources[&1]);
            for name in [4, 5] {
                let fd = fresh.try_clone().unwrap();
                cx.sources.register(&fd, Interest::READ, name).unwrap();
                std::mem::forget(fd);
            }
        }
    }));
    register(&mut reactor, id, &regular, Interest::READ, 1);
    register(&mut reactor, id, &reader, Interest::READ, 2);
    let other = reader.try_clone().unwrap();
    register(&mut reactor, id, &other, Interest::READ, 3);
    writer.write_all(b"x").unwrap();
    turn(&mut reactor);
    turn(&mut reactor);
    assert_eq!(calls(&mut reactor, id), [Call::Ready(1)]);
}

#[test]
fn an_id_never_names_another_handler() {
    let mut reactor = Reactor::new().unwrap();
    let mut old = Vec::new();
    for _ in 0..10 {
        let id = reactor.add(Probe::default());
        assert!(!old.contains(&id));
        for &old in &old {
            assert!(reactor.get(old).is_none());
            assert!(reactor.call(old, |_, _| ()).is_none());
            assert!(reactor.remove(old).is_none());
        }
        assert!(reactor.get(id).is_some());
        reactor.remove(id).unwrap();
        old.push(id);
    }
}

#[test]
fn an_id_never_names_another_source() {
    let (reader, mut writer) = pipe();
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(Probe::default());
    let old = register(&mut reactor, id, &reader, Interest::READ, 1);
    reactor.call(id, |_, cx| cx.sources.deregister(old));
    let new = register(&mut reactor, id, &reader, Interest::READ, 2);
    assert_ne!(old, new);
    writer.write_all(b"x").unwrap();
    turn(&mut reactor);
    assert_eq!(calls(&mut reactor, id), [Call::Ready(2)]);
    reactor.call(id, |_, cx| {
        cx.sources.would_block(old, Interest::READ);
        cx.sources.short_read(old);
        cx.sources.want(old, Interest::NONE).unwrap();
        cx.sources.deregister(old);
    });
    turn(&mut reactor);
    assert_eq!(calls(&mut reactor, id), [Call::Ready(2)]);
}

#[test]
fn a_run_ends_when_every_handler_is_done_and_not_before() {
    let mut reactor = Reactor::new().unwrap();
    assert!(reactor.is_done());
    reactor.run().unwrap();
    let ids = [10, 20].map(|after| {
        let id = reactor.add(Probe::on_timer(|probe, _, _| probe.done = true));
        set(&mut reactor, id, Duration::from_millis(after), 1);
        id
    });
    assert!(!reactor.is_done());
    reactor.run().unwrap();
    assert!(ids.iter().all(|&id| calls(&mut reactor, id) == [Call::Timer(1)]));
    // One that has something to do again, and then is taken away.
    reactor.call(ids[0], |probe, _| probe.done = false);
    assert!(!reactor.is_done());
    reactor.remove(ids[0]);
    assert!(reactor.is_done());
}

#[test]
fn a_descriptor_that_can_not_be_watched_is_an_error_without_side_effects() {
    let (reader, mut writer) = pipe();
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(Probe::default());
    register(&mut reactor, id, &reader, Interest::READ, 1);
    let twice = reactor.call(id, |_, cx| cx.sources.register(&reader, Interest::READ, 2)).unwrap();
    assert_eq!(twice.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    writer.write_all(b"x").unwrap();
    turn(&mut reactor);
    assert_eq!(calls(&mut reactor, id), [Call::Ready(1)]);
}

/// Loops in loops: not on mio's poll(2) back end, which has no descriptor to nest.
#[cfg(not(mio_unsupported_force_poll_poll))]
mod nested {
    use super::*;

    /// A handler that is a whole reactor, driven as the documentation describes.
    struct Inner {
        reactor: Reactor<Probe>,
        source: Option<SourceId>,
        deadline: Option<TimerId>,
    }

    impl Inner {
        fn new(reactor: Reactor<Probe>) -> Self {
            Self { reactor, source: None, deadline: None }
        }

        fn poll(&mut self, cx: &mut Context<'_, (), ()>) {
            turn(&mut self.reactor);
            if let Some(timer) = self.deadline.take() {
                cx.timers.cancel(timer);
            }
            self.deadline = self
                .reactor
                .next_deadline()
                .map(|at| cx.timers.set(at.saturating_duration_since(Instant::now()), ()));
        }
    }

    impl Handler for Inner {
        type Source = ();
        type Timer = ();
        type Event = Infallible;

        fn start(&mut self, cx: &mut Context<'_, (), ()>) {
            self.source = cx.sources.register(&self.reactor, Interest::READ, ()).ok();
            self.poll(cx);
        }

        fn ready(&mut self, (): (), _: Ready, cx: &mut Context<'_, (), ()>) {
            // Before the turn: an edge that comes during it is another one.
            cx.sources.would_block(self.source.unwrap(), Interest::READ);
            self.poll(cx);
        }

        fn timer(&mut self, (): (), cx: &mut Context<'_, (), ()>) {
            self.deadline = None;
            self.poll(cx);
        }

        fn is_done(&self) -> bool {
            self.reactor.is_done()
        }
    }

    /// Runs to the end with a bound.
    #[track_caller]
    fn run(outer: &mut Reactor<Inner>) {
        let give_up = Instant::now() + TIMEOUT;
        let mut guard = 0;
        while !outer.is_done() {
            assert!(Instant::now() < give_up, "the inner reactor was not called");
            outer.poll_once(Some(Duration::from_secs(5))).unwrap();
            guard += 1;
            assert!(guard < 100_000, "the outer reactor turns in vain");
        }
    }

    #[test]
    fn a_reactor_in_a_reactor_gets_its_sources_and_its_timers() {
        let (reader, mut writer) = pipe();
        let mut inner = Reactor::new().unwrap();
        // Takes a byte a turn: the descriptor is silent, and the deadline is now.
        let reading = inner.add(reads(reader.try_clone().unwrap(), 1));
        register(&mut inner, reading, &reader, Interest::READ, 1);
        let waiting = inner.add(Probe::on_timer(move |probe, _, _| {
            writer.write_all(b"0123456789").unwrap();
            // The end of the pipe is the end of the other.
            writer = pipe().1;
            probe.done = true;
        }));
        set(&mut inner, waiting, Duration::from_millis(10), 1);
        let mut outer = Reactor::new().unwrap();
        let id = outer.add(Inner::new(inner));
        run(&mut outer);
        let mut inner = outer.remove(id).unwrap().reactor;
        assert_eq!(calls(&mut inner, reading).len(), 11);
    }

    #[test]
    fn an_edge_triggered_outer_loop_gets_more_events_than_fit_into_one_turn() {
        let pipes: Vec<_> = (0..600).map(|_| pipe()).collect();
        let mut inner = Reactor::new().unwrap();
        for (reader, _) in &pipes {
            let id = inner.add(short_reads(reader.try_clone().unwrap(), || {}));
            register(&mut inner, id, reader, Interest::READ, 1);
        }
        let mut outer = Reactor::new().unwrap();
        outer.add(Inner::new(inner));
        drop(pipes.into_iter().map(|(reader, _writer)| reader).collect::<Vec<_>>());
        run(&mut outer);
    }
}

#[test]
fn an_id_of_one_reactor_never_names_a_handler_of_another() {
    let (mut one, mut other) = (Reactor::new().unwrap(), Reactor::new().unwrap());
    let first = one.add(Probe::default());
    let second = other.add(Probe::default());
    assert_ne!(first, second);
    assert!(one.get(second).is_none() && other.get(first).is_none());
    assert!(other.call(first, |_, _| ()).is_none());
    assert!(other.remove(first).is_none());
    assert!(other.get(second).is_some());
}

#[test]
fn a_reactor_lists_the_handlers_that_have_not_been_removed() {
    let mut reactor = Reactor::new().unwrap();
    let ids: Vec<HandlerId> = (0..3).map(|_| reactor.add(Probe::default())).collect();
    reactor.remove(ids[1]).unwrap();
    let listed: Vec<HandlerId> = reactor.handlers().map(|(id, _)| id).collect();
    assert_eq!(listed, [ids[0], ids[2]]);
    let again = reactor.add(Probe::default());
    assert_eq!(reactor.handlers().count(), 3);
    assert!(!ids.contains(&again));
    assert_eq!(format!("{reactor:?}"), "Reactor { handlers: 3, live: 3, .. }");
}

#[cfg(not(mio_unsupported_force_poll_poll))]
#[test]
fn the_descriptor_of_a_reactor_is_the_same_raw_and_borrowed() {
    use std::os::fd::AsRawFd;

    let reactor = Reactor::<Probe>::new().unwrap();
    assert_eq!(reactor.as_raw_fd(), reactor.as_fd().as_raw_fd());
}
