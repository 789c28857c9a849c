//! The `tracing` span of a sandbox.

use std::fmt::{Debug, Write as _};
use std::mem;
use std::sync::{Arc, Mutex};

use crate::common::State;
use crate::common::turning::turn_until;
use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Metadata, Subscriber, span, warn};
use vmon::child::Command;
use vmon::monitor::{Monitor, Sandbox};
use vmon::reactor::Reactor;

/// Records the messages of one thread, each with the fields of the span that it is in.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Recorded>>);

#[derive(Default)]
struct Recorded {
    /// The fields of each span, at the index that is its id less one.
    spans: Vec<String>,
    entered: Vec<u64>,
    messages: Vec<String>,
}

impl Recorder {
    /// The messages since the last call that begin with one of these words.
    fn take(&self, words: &[&str]) -> Vec<String> {
        let mut messages = mem::take(&mut self.0.lock().unwrap().messages);
        messages.retain(|message| words.iter().any(|word| message.starts_with(word)));
        messages.sort();
        messages
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let mut recorded = self.0.lock().unwrap();
        recorded.spans.push(fields.0);
        span::Id::from_u64(recorded.spans.len() as u64)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut recorded = self.0.lock().unwrap();
        let message = fields.0.split(' ').next().unwrap().to_owned();
        let spans = recorded.entered.iter().map(|&id| recorded.spans[id as usize - 1].as_str());
        let message = [message].into_iter().chain(spans.map(str::to_owned)).collect::<String>();
        recorded.messages.push(message);
    }

    fn enter(&self, span: &span::Id) {
        self.0.lock().unwrap().entered.push(span.into_u64());
    }

    fn exit(&self, span: &span::Id) {
        assert_eq!(self.0.lock().unwrap().entered.pop(), Some(span.into_u64()));
    }
}

/// The message, and ` key=value` for each other field.
#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => write!(self.0, "{value:?}").unwrap(),
            name => write!(self.0, " {name}={value:?}").unwrap(),
        }
    }
}

#[test]
fn every_message_is_in_the_span_of_its_sandbox_also_in_a_call_of_the_host() {
    let recorder = Recorder::default();
    // With one dispatcher, tracing-core asks only the default one of the thread that comes to a message
    // first whether it is wanted, and the threads of other tests have none.
    let _second = Dispatch::new(Recorder::default());
    let _default = tracing::subscriber::set_default(recorder.clone());
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let sandbox = |name: &str| Sandbox::new(name, state.path().join("log")).unwrap();
    let ids = [sandbox("a"), sandbox("b").config_file("other".parse().unwrap())]
        .map(|it| Monitor::builder(it).spawn(&mut reactor, Command::new("sleep").arg("1000")));
    turn_until(&mut reactor, "both run", |reactor| {
        ids.iter().all(|&id| reactor.get(id).unwrap().report().child.is_some())
    });
    assert_eq!(recorder.take(&["running"]), ["running name=a", "running name=b config_file=other"]);

    for id in ids {
        reactor.call(id, Monitor::stop).unwrap();
        warn!("host");
    }
    assert_eq!(
        recorder.take(&["stopping", "host"]),
        ["host", "host", "stopping name=a", "stopping name=b config_file=other"]
    );
    reactor.run().unwrap();
    assert_eq!(recorder.take(&["stopped"]), ["stopped name=a", "stopped name=b config_file=other"]);
}
