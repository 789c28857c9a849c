//! A host with a handler of its own beside monitors, in one reactor on one thread.
//!
//! An enum is the type of all its handlers. They share the key types of the monitor:
//! `SourceKey::of_host` and `TimerKey::of_host` make the keys of the host's own sources and timers.
//! The host takes events instead of giving each monitor an observer.
//!
//! `cargo run --no-default-features --example beside`

use std::io::{self, PipeReader, Read, Write};
use std::time::Duration;

use vmon::child::Command;
use vmon::monitor::{Event, Monitor, Sandbox, SourceKey, TimerKey, Transition};
use vmon::reactor::{Context, Handler, Interest, Reactor, Ready, SourceId};

type Cx<'a> = Context<'a, SourceKey, TimerKey>;

/// Counts the bytes that arrive on a pipe, and gives up after ten seconds.
struct Counter {
    pipe: PipeReader,
    source: Option<SourceId>,
    bytes: usize,
}

const PIPE: u32 = 0;
const GIVE_UP: u32 = 1;

impl Handler for Counter {
    type Source = SourceKey;
    type Timer = TimerKey;
    type Event = Event;

    fn start(&mut self, cx: &mut Cx<'_>) {
        self.source =
            cx.sources.register(&self.pipe, Interest::READ, SourceKey::of_host(PIPE)).ok();
        cx.timers.set(Duration::from_secs(10), TimerKey::of_host(GIVE_UP));
    }

    fn ready(&mut self, key: SourceKey, _: Ready, cx: &mut Cx<'_>) {
        let Some(source) = self.source.filter(|_| key.host_key() == Some(PIPE)) else { return };
        match self.pipe.read(cx.scratch) {
            Ok(count @ 1..) => self.bytes += count,
            Ok(0) | Err(_) => {
                cx.sources.deregister(source);
                self.source = None;
            }
        }
    }

    fn timer(&mut self, _: TimerKey, cx: &mut Cx<'_>) {
        if let Some(source) = self.source.take() {
            cx.sources.deregister(source);
        }
    }

    fn is_done(&self) -> bool {
        self.source.is_none()
    }
}

/// All handlers of this host.
enum Task {
    Sandbox(Box<Monitor>),
    Counter(Counter),
}

impl Handler for Task {
    type Source = SourceKey;
    type Timer = TimerKey;
    type Event = Event;

    fn start(&mut self, cx: &mut Cx<'_>) {
        match self {
            Self::Sandbox(it) => it.start(cx),
            Self::Counter(it) => it.start(cx),
        }
    }

    fn ready(&mut self, source: SourceKey, ready: Ready, cx: &mut Cx<'_>) {
        match self {
            Self::Sandbox(it) => it.ready(source, ready, cx),
            Self::Counter(it) => it.ready(source, ready, cx),
        }
    }

    fn timer(&mut self, timer: TimerKey, cx: &mut Cx<'_>) {
        match self {
            Self::Sandbox(it) => it.timer(timer, cx),
            Self::Counter(it) => it.timer(timer, cx),
        }
    }

    fn signal(&mut self, signal: i32, cx: &mut Cx<'_>) {
        match self {
            Self::Sandbox(it) => it.signal(signal, cx),
            Self::Counter(it) => it.signal(signal, cx),
        }
    }

    fn after_signal(signal: i32) {
        Monitor::after_signal(signal);
    }

    fn take_event(&mut self) -> Option<Event> {
        match self {
            Self::Sandbox(it) => it.take_event(),
            Self::Counter(it) => it.take_event(),
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Sandbox(it) => it.is_done(),
            Self::Counter(it) => it.is_done(),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let logs = std::env::temp_dir().join("vmon-beside");
    let (pipe, mut writer) = io::pipe()?;
    let mut reactor = Reactor::new()?;
    reactor.collect_events();
    let counter = reactor.add(Task::Counter(Counter { pipe, source: None, bytes: 0 }));
    for (name, script) in [("first", "echo one; sleep 0.1"), ("second", "echo two; exit 2")] {
        let monitor = Monitor::builder(Sandbox::new(name, &logs)?)
            .build(Command::new("sh").args(["-c", script]));
        reactor.add(Task::Sandbox(Box::new(monitor)));
    }
    writer.write_all(b"from the host")?;
    drop(writer);

    while !reactor.is_done() {
        reactor.poll_once(None)?;
        while let Some((id, event)) = reactor.next_event() {
            match event {
                Event::Transition(Transition::Running { child, .. }) => {
                    println!("{id:?} runs with the pid {}", child.pid);
                }
                Event::Transition(Transition::Stopped { end, .. }) => {
                    println!("{id:?} has ended with {}", end.exit_code());
                }
                Event::Done => drop(reactor.remove(id)),
                _ => {}
            }
        }
    }
    if let Some(Task::Counter(counter)) = reactor.remove(counter) {
        println!("the pipe gave {} bytes", counter.bytes);
    }
    Ok(())
}
