//! What the rows of the benchmark share: the options, the tools found, and scratch directories.

use std::path::Path;

use crate::Result;
use crate::options::Options;
use crate::peers::{Peer, Peers};
use crate::samples::{Contender, Measured};
use crate::scratch::Scratch;

/// The options of this invocation and the tools to measure.
pub struct Bench {
    /// The parsed command line.
    pub options: Options,
    /// The tools that are installed.
    pub peers: Peers,
}

impl Bench {
    /// Creates a directory for one run.
    pub fn scratch(&self) -> Result<Scratch> {
        Scratch::new(&self.options.dir)
    }

    /// `quick` with `--quick`, else `full`.
    pub fn size<T>(&self, full: T, quick: T) -> T {
        if self.options.quick { quick } else { full }
    }

    /// A contender that runs the peer's executable; `None` if the peer is not installed.
    pub fn peer<'a>(
        &'a self,
        peer: Peer,
        name: &str,
        mut run: impl FnMut(&'a Path) -> Result<Measured> + 'a,
    ) -> Option<Contender<'a>> {
        let path = self.peers.path(peer)?;
        Some(Contender::peer(name, move || run(path)))
    }
}
