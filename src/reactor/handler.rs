//! The trait that a reactor's handlers implement.

use super::context::Context;
use super::sources::Ready;

/// Receives the events of its own sources and timers, and signals.
///
/// Its keys name its sources and timers: the reactor hands back the key with each event and never
/// looks into it.
pub trait Handler: Sized {
    /// The key of a source.
    type Source: Copy;
    /// The key of a timer.
    type Timer: Copy;
    /// What the handler yields to the host; [`Infallible`](std::convert::Infallible) for nothing.
    type Event;

    /// Called once, in the first turn after the handler was added, before anything else.
    fn start(&mut self, cx: &mut Context<'_, Self::Source, Self::Timer>);

    /// A source is ready for an operation that it is wanted for.
    ///
    /// Readiness can be spurious: every read and write must handle `WouldBlock`. The handler is
    /// called again in each turn until it reports that the source would block or is no longer
    /// wanted, so it may take a bounded amount per call.
    fn ready(
        &mut self,
        source: Self::Source,
        ready: Ready,
        cx: &mut Context<'_, Self::Source, Self::Timer>,
    );

    /// A timer has expired.
    fn timer(&mut self, timer: Self::Timer, cx: &mut Context<'_, Self::Source, Self::Timer>);

    /// A watched signal has arrived. Every handler is called; signals of one kind may coalesce.
    fn signal(&mut self, signal: i32, cx: &mut Context<'_, Self::Source, Self::Timer>) {
        let _ = (signal, cx);
    }

    /// Called once for each signal, after [`signal`](Self::signal) of every handler.
    fn after_signal(signal: i32) {
        let _ = signal;
    }

    /// The next event for the host, in the order in which they happened. Asked after each call until
    /// it is `None`, whether the host [collects](super::Reactor::collect_events) events or not, so
    /// that a handler keeps none.
    fn take_event(&mut self) -> Option<Self::Event> {
        None
    }

    /// Whether nothing is left to do. Asked after each call.
    fn is_done(&self) -> bool;
}
