//! Reads the runs on record page by page, so that a command holds one page of them. No lock of the
//! record is held between two pages: printing one may wait for a slow reader.

use vmon::registry::{Registry, RegistryError, Run};

/// The number of runs on a page.
const PAGE: u32 = 256;

/// Pages of runs of vmon, newest first.
#[derive(Debug)]
pub struct RunPages<'a> {
    registry: &'a Registry,
    /// What remains to be read: the sandboxes, the next one last. `None` is all of them.
    remaining: Vec<Option<i64>>,
    /// The last number of the previous page.
    before: Option<i64>,
}

impl<'a> RunPages<'a> {
    /// All runs.
    pub fn all(registry: &'a Registry) -> Self {
        Self { registry, remaining: vec![None], before: None }
    }

    /// The runs of these sandboxes, one after the other.
    pub fn of(registry: &'a Registry, sandboxes: Vec<i64>) -> Self {
        let remaining = sandboxes.into_iter().rev().map(Some).collect();
        Self { registry, remaining, before: None }
    }
}

impl Iterator for RunPages<'_> {
    type Item = Result<Vec<Run>, RegistryError>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(sandbox) = self.remaining.last() {
            let page = match self.registry.page(*sandbox, self.before, PAGE) {
                Ok(page) => page,
                Err(error) => {
                    self.remaining.clear();
                    return Some(Err(error));
                }
            };
            self.before = page.last().and_then(|run| run.id);
            if self.before.is_none() {
                self.remaining.pop();
                continue;
            }
            return Some(Ok(page));
        }
        None
    }
}
