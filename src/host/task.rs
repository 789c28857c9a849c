//! What the reactor of an engine calls: the monitors, and handlers of the host's own beside them.

use super::waiting::Waiting;
#[cfg(all(feature = "control", feature = "codec"))]
use crate::control::host::{HostCall, HostSocket};
use crate::monitor::{Event, Monitor, SourceKey, TimerKey};
use crate::reactor::{Context, Handler, Ready};

/// A handler of an engine's reactor. All share the keys of a monitor: others make theirs with
/// [`SourceKey::of_host`] and [`TimerKey::of_host`].
pub(super) enum Task {
    /// A sandbox.
    Sandbox(Box<Supervised>),
    /// The host's control socket.
    #[cfg(all(feature = "control", feature = "codec"))]
    Socket(Box<HostSocket>),
}

/// The monitor of a sandbox, and what waits for it.
pub(super) struct Supervised {
    pub(super) monitor: Monitor,
    pub(super) waiting: Waiting,
    /// Whether the host has started the child, and not the engine.
    pub(super) adopted: bool,
}

/// What a task yields to the engine.
pub(super) enum TaskEvent {
    /// An event of a sandbox.
    Sandbox(Event),
    /// A call of a client of the control socket.
    #[cfg(all(feature = "control", feature = "codec"))]
    Call(HostCall),
}

impl Task {
    pub(super) fn new(monitor: Monitor, adopted: bool) -> Self {
        Self::Sandbox(Box::new(Supervised { monitor, waiting: Waiting::default(), adopted }))
    }
}

type Cx<'a> = Context<'a, SourceKey, TimerKey>;

impl Handler for Task {
    type Source = SourceKey;
    type Timer = TimerKey;
    type Event = TaskEvent;

    fn start(&mut self, cx: &mut Cx<'_>) {
        match self {
            Self::Sandbox(it) => it.monitor.start(cx),
            #[cfg(all(feature = "control", feature = "codec"))]
            Self::Socket(it) => it.start(cx),
        }
    }

    fn ready(&mut self, source: SourceKey, ready: Ready, cx: &mut Cx<'_>) {
        match self {
            Self::Sandbox(it) => it.monitor.ready(source, ready, cx),
            #[cfg(all(feature = "control", feature = "codec"))]
            Self::Socket(it) => it.ready(source, ready, cx),
        }
    }

    fn timer(&mut self, timer: TimerKey, cx: &mut Cx<'_>) {
        match self {
            Self::Sandbox(it) => it.monitor.timer(timer, cx),
            #[cfg(all(feature = "control", feature = "codec"))]
            Self::Socket(it) => it.timer(timer, cx),
        }
    }

    fn signal(&mut self, signal: i32, cx: &mut Cx<'_>) {
        match self {
            Self::Sandbox(it) => it.monitor.signal(signal, cx),
            #[cfg(all(feature = "control", feature = "codec"))]
            Self::Socket(it) => it.signal(signal, cx),
        }
    }

    fn after_signal(signal: i32) {
        Monitor::after_signal(signal);
    }

    fn take_event(&mut self) -> Option<TaskEvent> {
        match self {
            Self::Sandbox(it) => it.monitor.take_event().map(TaskEvent::Sandbox),
            #[cfg(all(feature = "control", feature = "codec"))]
            Self::Socket(it) => it.take_event().map(TaskEvent::Call),
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Sandbox(it) => it.monitor.is_done(),
            #[cfg(all(feature = "control", feature = "codec"))]
            Self::Socket(it) => it.is_done(),
        }
    }
}
