//! The replies that wait for the start or the end of one sandbox.

use std::sync::Arc;

use super::error::HostError;
use super::reply::{Answer, Reply};
use super::started::Started;
use crate::monitor::{End, Name, Outcome, SandboxId};

/// Replies to be sent when one sandbox starts or ends. Empty ones take no heap.
#[derive(Default)]
pub(super) struct Waiting {
    starts: Vec<Answer<Started>>,
    ends: Vec<Answer<Arc<End>>>,
}

impl Waiting {
    /// A reply that comes when the child runs.
    pub(super) fn add_start(&mut self) -> Reply<Started> {
        add(&mut self.starts)
    }

    /// A reply that comes with the end.
    pub(super) fn add_end(&mut self) -> Reply<Arc<End>> {
        add(&mut self.ends)
    }

    /// The child runs.
    pub(super) fn running(&mut self, id: SandboxId, names: [&Name; 2], pid: u32) {
        for answer in std::mem::take(&mut self.starts) {
            if answer.is_closed() {
                continue;
            }
            let [config_file, name] = names.map(Clone::clone);
            let started = Started { id, name, config_file, pid, end: self.add_end() };
            // A reply that is dropped meanwhile takes that of the end with it.
            let _ = answer.send(Ok(started));
        }
    }

    /// It has ended.
    pub(super) fn ended(self, id: SandboxId, end: End) {
        for answer in self.starts {
            let error = match &end.outcome {
                Outcome::NotStarted(source) => {
                    HostError::NotStarted { source: source.clone(), exit_code: end.exit_code() }
                }
                Outcome::Ended { .. } => HostError::NoSuchSandbox(id),
            };
            let _ = answer.send(Err(error));
        }
        if self.ends.is_empty() {
            return;
        }
        let end = Arc::new(end);
        for answer in self.ends {
            let _ = answer.send(Ok(end.clone()));
        }
    }
}

fn add<T>(answers: &mut Vec<Answer<T>>) -> Reply<T> {
    // Those that wait no longer are forgotten, so that their number is bounded by the others.
    answers.retain(|answer| !answer.is_closed());
    let (answer, reply) = Reply::new();
    answers.reserve_exact(1);
    answers.push(answer);
    reply
}
