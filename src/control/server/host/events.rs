//! The latest events of a host, each with a number, for clients that watch them.

use std::collections::VecDeque;

use chrono::Utc;
use serde_json::{Value, json};

use super::super::super::value::int;
use super::super::fault::reply;

/// Limit of bytes that are kept.
const MAX_KEPT: usize = 256 * 1024;

/// Limit of bytes that are given to a client at once.
const BATCH: usize = 16 * 1024;

/// The events.
pub(super) struct Events {
    /// Distinguishes the cursors of this host from those of another one.
    instance: String,
    /// Encoded replies, oldest first.
    kept: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The number of the event that follows the last one.
    next: u64,
}

impl Events {
    pub(super) fn new() -> Self {
        let instance = format!("{:x}.{:x}", Utc::now().timestamp_micros(), std::process::id());
        Self { instance, kept: VecDeque::new(), bytes: 0, next: 0 }
    }

    /// The number of the event that follows the last one.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn push(&mut self, event: &Value) {
        self.next += 1;
        let message = self.reply(self.next, 0, event);
        self.bytes += message.len();
        self.kept.push_back(message);
        while self.bytes > MAX_KEPT {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }

    /// The reply without an event that a watch begins with, and that reports missing events.
    pub(super) fn empty(&self, next: u64, missed: u64) -> Vec<u8> {
        self.reply(next, missed, &Value::Null)
    }

    fn reply(&self, next: u64, missed: u64, event: &Value) -> Vec<u8> {
        let cursor = format!("{}-{next}", self.instance);
        reply(json!({ "cursor": cursor, "missed": int(missed), "event": event }), true)
    }

    /// The number of the event after this cursor; `None` for no cursor of this host.
    pub(super) fn after(&self, cursor: &str) -> Option<u64> {
        let (instance, number) = cursor.rsplit_once('-')?;
        number.parse().ok().filter(|number| instance == self.instance && *number <= self.next)
    }

    /// Messages of events from this number on, and the number that follows them. `None` if there
    /// are none. If the first events are no longer kept, their number comes first.
    pub(super) fn batch(&self, from: u64) -> Option<(Vec<u8>, u64)> {
        let first = self.next - self.kept.len() as u64;
        if from < first {
            return Some((self.empty(first, first - from), first));
        }
        let (mut messages, mut next) = (Vec::new(), from);
        let skipped = usize::try_from(from - first).unwrap_or(usize::MAX);
        for message in self.kept.iter().skip(skipped) {
            if !messages.is_empty() && messages.len() + message.len() > BATCH {
                break;
            }
            messages.extend_from_slice(message);
            next += 1;
        }
        (next > from).then_some((messages, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The replies in a batch.
    fn replies(batch: &[u8]) -> Vec<Value> {
        let messages = batch.split(|byte| *byte == 0).filter(|message| !message.is_empty());
        messages.map(|message| serde_json::from_slice(message).unwrap()).collect()
    }

    #[test]
    fn events_are_resumed_after_a_cursor_and_missing_ones_are_counted() {
        let mut events = Events::new();
        for number in 0..3 {
            events.push(&json!({ "n": number }));
        }
        let (messages, next) = events.batch(0).unwrap();
        let all = replies(&messages);
        assert_eq!((all.len(), next), (3, 3));
        let cursor = all[1]["parameters"]["cursor"].as_str().unwrap();
        let from = events.after(cursor).unwrap();
        let (messages, next) = events.batch(from).unwrap();
        assert_eq!(replies(&messages)[0]["parameters"]["event"]["n"], 2);
        assert!(events.batch(next).is_none());
        for _ in 0..MAX_KEPT / 1000 {
            events.push(&json!({ "x": "y".repeat(1000) }));
        }
        let (messages, first) = events.batch(from).unwrap();
        let told = &replies(&messages)[0]["parameters"];
        assert_eq!((told["missed"].as_u64(), &told["event"]), (Some(first - from), &Value::Null));
        assert_eq!(events.after(told["cursor"].as_str().unwrap()), Some(first));
        let (messages, _) = events.batch(first).unwrap();
        assert!(messages.len() <= BATCH);
    }

    #[test]
    fn a_cursor_of_another_host_or_of_the_future_is_none() {
        let mut events = Events::new();
        events.push(&Value::Null);
        for cursor in [format!("{}-2", events.instance), "x-1".into(), "x".into(), String::new()] {
            assert_eq!(events.after(&cursor), None, "{cursor}");
        }
    }
}
