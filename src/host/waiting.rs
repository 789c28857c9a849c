//! The replies that wait for the start or the end of one sandbox.

use std::sync::Arc;

use super::error::HostError;
use super::reply::{Answer, Reply};
use super::shared::Shared;
use super::started::Started;
use crate::monitor::{End, Name, Outcome, SandboxId};

/// Replies to be sent when one sandbox starts or ends. Empty ones take no heap.
#[derive(Default)]
pub(super) struct Waiting {
    starts: Vec<Answer<Started>>,
    ends: Vec<Answer<Arc<End>>>,
}

impl Waiting {
    /// An answer that is due when the child runs.
    pub(super) fn add_start(&mut self, answer: Answer<Started>) {
        add(&mut self.starts, answer);
    }

    /// An answer that is due at the end.
    pub(super) fn add_end(&mut self, answer: Answer<Arc<End>>) {
        add(&mut self.ends, answer);
    }

    /// The child runs.
    pub(super) fn running(
        &mut self,
        id: SandboxId,
        names: [&Name; 2],
        pid: u32,
        shared: &Arc<Shared>,
    ) {
        for answer in std::mem::take(&mut self.starts) {
            if answer.is_closed() {
                continue;
            }
            let [config_file, name] = names.map(Clone::clone);
            let (end_answer, end) = Reply::new(shared);
            self.add_end(end_answer);
            let started = Started { id, name, config_file, pid, end };
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

fn add<T>(answers: &mut Vec<Answer<T>>, answer: Answer<T>) {
    // Those that wait no longer are forgotten, so that their number is bounded by the others.
    answers.retain(|answer| !answer.is_closed());
    answers.reserve_exact(1);
    answers.push(answer);
}
