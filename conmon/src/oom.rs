//! The files that say that memory has run out in the container.

use std::error::Error;
use std::fs::File;
use std::path::PathBuf;

use tracing::{info, warn};
use vmon::monitor::{Service, ServiceContext, Transition};
use vmon::oom::OomWatch;
use vmon::reactor::{Interest, Ready, SourceId};

/// The name of the file.
const NAME: &str = "oom";

/// Watches the memory cgroup of the container.
#[derive(Debug)]
pub struct OomFiles {
    directories: Vec<PathBuf>,
    watch: OomWatch,
    source: Option<SourceId>,
}

impl OomFiles {
    /// Files in these directories, for the cgroup of this process. `None` if it can't be watched.
    pub fn of(pid: u32, directories: Vec<PathBuf>) -> Option<Self> {
        match OomWatch::of(pid) {
            Ok(watch) => Some(Self { directories, watch: watch?, source: None }),
            Err(error) => {
                warn!("no notice when memory runs out: {error}");
                None
            }
        }
    }

    fn check(&mut self) {
        if !self.watch.check() {
            return;
        }
        info!("memory has run out in the container");
        for path in self.directories.iter().map(|directory| directory.join(NAME)) {
            if let Err(error) = File::create(&path) {
                warn!("can't create {}: {error}", path.display());
            }
        }
    }
}

impl Service for OomFiles {
    fn open(
        &mut self,
        cx: &mut ServiceContext<'_, '_>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        match cx.register(&self.watch, Interest::READ, 0) {
            Ok(source) => self.source = Some(source),
            Err(error) => warn!("no notice when memory runs out: {error}"),
        }
        Ok(())
    }

    fn ready(&mut self, _: u32, _: Ready, cx: &mut ServiceContext<'_, '_>) {
        self.check();
        self.source.into_iter().for_each(|it| cx.would_block(it, Interest::READ));
    }

    fn transition(&mut self, transition: &Transition, _: &mut ServiceContext<'_, '_>) {
        if matches!(transition, Transition::Draining { .. }) {
            self.check();
        }
    }
}
