//! What a monitor does when the reactor calls it.

use std::mem;

use tracing::{info, warn};

use super::Monitor;
use super::channels::Channels;
use super::check;
use super::keys::{Cx, Source, SourceKey, Timer, TimerKey};
use super::lifecycle::{Event, StopRequest};
use super::parts::Parts;
use super::requests::RequestError;
use super::service::Services;
use super::signals;
use crate::child::{KillScope, Signal};
use crate::reactor::{Handler, Ready};
use crate::terminal;

impl Handler for Monitor {
    type Source = SourceKey;
    type Timer = TimerKey;
    type Event = super::Event;

    fn start(&mut self, cx: &mut Cx<'_>) {
        self.handle_call(cx, Self::check_and_claim);
    }

    fn ready(&mut self, SourceKey(source): SourceKey, ready: Ready, cx: &mut Cx<'_>) {
        self.handle_call(cx, |monitor, cx| monitor.source_ready(source, ready, cx));
    }

    fn timer(&mut self, TimerKey(timer): TimerKey, cx: &mut Cx<'_>) {
        self.handle_call(cx, |monitor, cx| monitor.timer_expired(timer, cx));
    }

    fn signal(&mut self, signal: i32, cx: &mut Cx<'_>) {
        self.handle_call(cx, |monitor, cx| monitor.signal_received(signal, cx));
    }

    fn after_signal(signal: i32) {
        terminal::suspend_after(signal);
    }

    fn take_event(&mut self) -> Option<super::Event> {
        if let Some(transition) = self.lifecycle.parts.reported.take() {
            return Some(super::Event::Transition(transition));
        }
        let done = self.is_done();
        (done && !mem::replace(&mut self.done, done)).then_some(super::Event::Done)
    }

    fn is_done(&self) -> bool {
        let parts = &self.lifecycle.parts;
        self.end().is_some()
            && parts.observers.are_done()
            && !parts.channels.has_attachments()
            && self.services.are_done()
    }
}

impl Monitor {
    /// Handles a call of the reactor within the span of the sandbox, and does what follows each one.
    fn handle_call(&mut self, cx: &mut Cx<'_>, handle: impl FnOnce(&mut Self, &mut Cx<'_>)) {
        self.in_span(|monitor| {
            handle(monitor, cx);
            monitor.follow(cx);
            monitor.channels().follow_deadline(cx);
        });
    }

    fn check_and_claim(&mut self, cx: &mut Cx<'_>) {
        if self.lifecycle.has_begun() {
            return self.end_removed(cx);
        }
        match check::check(&mut self.lifecycle.parts) {
            Ok(()) => self.claim(cx),
            Err(error) => self.lifecycle.handle(Event::Unusable(error), cx),
        }
    }

    fn source_ready(&mut self, source: Source, ready: Ready, cx: &mut Cx<'_>) {
        match source {
            Source::Exit => self.lifecycle.handle(Event::Exit, cx),
            Source::Service { service, key } => {
                self.services.ready((service, key), ready, &mut self.lifecycle, cx);
            }
            Source::Output(output) => self.lifecycle.read_output(output, cx),
            Source::Sink(output) => {
                self.channels().sink_ready(output, cx);
                self.lifecycle.output_moved(false, cx);
            }
            Source::HostInput => {
                self.channels().read_host(cx);
                self.lifecycle.handle(Event::Input, cx);
            }
            Source::Input(channel) => self.channels().input_ready(channel, cx),
            Source::Log(channel) => {
                self.channels().log_ready(channel, cx);
                self.lifecycle.output_moved(false, cx);
            }
            #[cfg(feature = "consoles")]
            Source::Listener(channel) => {
                let read = self.channels().accept(channel, cx);
                self.lifecycle.output_moved(read, cx);
            }
            Source::PostRotate => self.poll_post_rotate(cx),
            Source::StopCommand => self.lifecycle.handle(Event::StopCommand, cx),
            Source::ClientInput(client) => {
                if let Some(bytes) = self.channels().read_client(client, cx) {
                    self.lifecycle.send(client, &bytes, cx);
                }
            }
            Source::ClientOutput(client) => self.channels().flush_client(client, cx),
            Source::PacketClient(client) => self.lifecycle.serve_packets(client, ready, cx),
            Source::Host(_) => {}
        }
    }

    fn timer_expired(&mut self, timer: Timer, cx: &mut Cx<'_>) {
        match timer {
            Timer::Claim => self.claim(cx),
            Timer::Observer(index) => {
                let parts = &mut self.lifecycle.parts;
                if let Err(panic) = parts.observers.retry(index, &mut cx.timers) {
                    parts.note_panic(panic);
                }
            }
            Timer::LogRetry => {
                self.channels().retry_logs(cx);
                self.lifecycle.output_moved(false, cx);
            }
            Timer::LogTurn => {
                self.channels().log_turn();
                self.lifecycle.parts.reopen = true;
                // It may have rotated a log.
                self.lifecycle.parts.start_post_rotate(cx);
            }
            Timer::Exit => self.lifecycle.handle(Event::Exit, cx),
            Timer::Kill => self.lifecycle.handle(Event::Kill, cx),
            Timer::Quiet => self.lifecycle.handle(Event::Quiet, cx),
            Timer::DrainLimit => self.lifecycle.handle(Event::DrainLimit, cx),
            Timer::Leftovers => self.lifecycle.handle(Event::Leftovers, cx),
            #[cfg(feature = "consoles")]
            Timer::Connect(channel) => self.channels().connect(channel, cx),
            Timer::Restart => {
                self.lifecycle.handle(Event::Restart, cx);
                self.claim(cx);
            }
            Timer::MaxDuration => self.lifecycle.handle(Event::MaxDuration, cx),
            Timer::Idle => self.lifecycle.handle(Event::Idle, cx),
            Timer::PostRotate => self.poll_post_rotate(cx),
            Timer::StopCommand => self.lifecycle.handle(Event::StopCommand, cx),
            Timer::PacketClients => {
                self.channels().packets_timer(cx);
                self.lifecycle.output_moved(false, cx);
            }
            Timer::Attachments => self.channels().close_attachments(cx),
            Timer::Service { service, key } => {
                self.services.timer((service, key), &mut self.lifecycle, cx);
            }
            Timer::ReadOutput(output) => self.lifecycle.read_output(output, cx),
            Timer::Redraw(channel) => self.channels().redraw_timer(channel, cx),
            Timer::TrimPipe(output) => self.channels().trim(output, cx),
            Timer::Host(_) => {}
        }
    }

    fn signal_received(&mut self, signal: i32, cx: &mut Cx<'_>) {
        match Signal::from_number(signal) {
            Some(Signal::TERM | Signal::INT | Signal::QUIT) => {
                self.lifecycle.handle(Event::Stop(StopRequest::Urgent), cx);
            }
            Some(Signal::HUP) => self.lifecycle.handle(Event::Stop(StopRequest::Once), cx),
            Some(Signal::USR1) => {
                // A sandbox that does not run opens its log at its next start anyway.
                if let Err(RequestError::Log(error)) = self.lifecycle.reopen_log() {
                    warn!("{error}");
                }
            }
            Some(Signal::CHLD) => {
                if let Some(post_rotate) = &mut self.lifecycle.parts.post_rotate {
                    post_rotate.reap_left();
                }
                self.lifecycle.handle(Event::OrphanEnded, cx);
            }
            Some(Signal::WINCH) => self.channels().host_resized(),
            Some(Signal::TSTP) => self.channels().leave_terminal(),
            Some(Signal::CONT) => self.channels().enter_terminal(cx),
            Some(signal) if signals::is_passed_on(signal) => {
                match self.lifecycle.signal_child(signal) {
                    Ok(()) => info!("{signal} passed on"),
                    Err(error) => warn!("{signal} not passed on: {error}"),
                }
            }
            _ => {}
        }
    }

    /// Asks the observers for the claim, opens the services once it is granted, and starts the
    /// child.
    fn claim(&mut self, cx: &mut Cx<'_>) {
        let Self { lifecycle, services, .. } = self;
        match services.address() {
            Ok(address) => lifecycle.handle(Event::Claim(address), cx),
            Err((service, panic)) => services.remove(service, panic, lifecycle, cx),
        }
        if lifecycle.is_claimed()
            && let Some(opened) = services.open(lifecycle, cx)
        {
            lifecycle.handle(Event::ServicesOpen(opened), cx);
        }
    }

    /// Ends a run that goes no further: the reactor that this monitor was removed from has forgotten
    /// its sources and timers.
    fn end_removed(&mut self, cx: &mut Cx<'_>) {
        self.services = Services::default();
        let ended = self.lifecycle.abandon();
        let parts = &mut self.lifecycle.parts;
        parts.channels = Channels::default();
        parts.post_rotate = None;
        parts.observers.forget_timers();
        if let Some(transition) = ended {
            parts.report(&transition, cx);
        }
    }

    fn poll_post_rotate(&mut self, cx: &mut Cx<'_>) {
        let Parts { post_rotate, channels, scope, .. } = &mut self.lifecycle.parts;
        if let Some(post_rotate) = post_rotate {
            post_rotate.poll(channels, *scope != KillScope::Group, cx);
        }
    }
}
