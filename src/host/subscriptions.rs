//! Bounded queues of events, one for each consumer.

use std::collections::VecDeque;
use std::mem;

use oneshot::Sender;

use super::reply::Answer;
use crate::monitor::{Event, Name, SandboxId};

/// An event of one of the sandboxes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SandboxEvent {
    /// The sandbox, whose monitor is removed after [`Event::Done`].
    pub id: SandboxId,
    /// Its name.
    pub name: Name,
    /// The namespace of its log and record.
    pub config_file: Name,
    /// What has happened.
    pub event: Event,
}

/// Events in the order in which they happened.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Batch {
    /// The number of events that are missing before the first of these: the queue was full, and the
    /// oldest were removed.
    pub missed: u64,
    /// The events.
    pub events: VecDeque<SandboxEvent>,
}

/// Identifies a subscription to the events of an engine. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub(super) u64);

/// The queue of one consumer.
struct Subscription {
    id: SubscriptionId,
    /// The most events that wait.
    limit: usize,
    batch: Batch,
    /// The consumer waits for the next batch.
    next: Option<Answer<Batch>>,
    /// For what is left when the engine is dropped.
    last: Option<Sender<Batch>>,
}

/// The queues of all consumers.
#[derive(Default)]
pub(super) struct Subscriptions {
    list: Vec<Subscription>,
}

impl Subscriptions {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn add(&mut self, id: SubscriptionId, limit: usize, last: Option<Sender<Batch>>) {
        let batch = Batch::default();
        self.list.push(Subscription { id, limit: limit.max(1), batch, next: None, last });
    }

    pub(super) fn remove(&mut self, id: SubscriptionId) {
        self.list.retain(|subscription| subscription.id != id);
    }

    /// Appends an event to each queue.
    pub(super) fn push(&mut self, event: &SandboxEvent) {
        for subscription in &mut self.list {
            subscription.push(event.clone());
        }
    }

    /// Sends what has come to the consumers that wait.
    pub(super) fn deliver(&mut self) {
        self.list.iter_mut().for_each(Subscription::deliver);
    }

    /// All that waits in a queue.
    pub(super) fn take(&mut self, id: SubscriptionId) -> Batch {
        self.get(id).map(|subscription| mem::take(&mut subscription.batch)).unwrap_or_default()
    }

    /// Sends the next batch, which is not empty, as soon as it is there.
    pub(super) fn next(&mut self, id: SubscriptionId, answer: Answer<Batch>) {
        if let Some(subscription) = self.get(id) {
            subscription.next = Some(answer);
            subscription.deliver();
        }
    }

    fn get(&mut self, id: SubscriptionId) -> Option<&mut Subscription> {
        self.list.iter_mut().find(|subscription| subscription.id == id)
    }
}

impl Subscription {
    fn push(&mut self, event: SandboxEvent) {
        if self.batch.events.len() >= self.limit {
            self.batch.events.pop_front();
            self.batch.missed += 1;
        }
        self.batch.events.push_back(event);
    }

    fn deliver(&mut self) {
        if self.batch.events.is_empty() {
            return;
        }
        let Some(next) = self.next.take() else { return };
        // A reply that was dropped has taken nothing.
        if let Err(unsent) = next.send(Ok(mem::take(&mut self.batch))) {
            self.batch = unsent.into_inner().unwrap_or_default();
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(last) = self.last.take() {
            // A consumer that has gone misses nothing.
            let _ = last.send(mem::take(&mut self.batch));
        }
    }
}
