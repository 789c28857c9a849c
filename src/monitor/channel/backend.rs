//! What a channel's descriptors belong to: the child's own stdio, or a peer that comes and goes.

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::logfile::Stream;
use crate::monitor::console_report::ConsoleReport;
use crate::monitor::keys::Cx;
use crate::monitor::name::Name;
use crate::relay::Kind;

/// The back end of a channel.
#[derive(Debug)]
pub(in crate::monitor) enum Backend {
    /// Pipes to the child's stdin, stdout and stderr.
    Pipes {
        /// Whether the child's stdin stays open while nothing writes to it.
        input_lasts: bool,
    },
    /// The child's controlling terminal.
    Pty,
    /// A peer that comes and goes: a console.
    #[cfg_attr(
        not(feature = "consoles"),
        expect(dead_code, reason = "the only peers are consoles")
    )]
    Peer(Box<dyn Peer>),
}

/// The descriptors of a channel.
#[derive(Debug)]
pub(in crate::monitor) struct Opened {
    pub(in crate::monitor) outputs: Vec<(Stream, OwnedFd, Kind)>,
    pub(in crate::monitor) input: Option<OwnedFd>,
}

/// Opens and closes a channel whose other side comes and goes.
pub(in crate::monitor) trait Peer: Debug + Send {
    /// The name of the channel.
    fn name(&self) -> &Name;

    /// The path of a PTY that this process has made, whose master the output is.
    fn pty_path(&self) -> Option<&Path>;

    /// Whether the channel is open now.
    fn is_open(&self) -> bool;

    /// Whether the channel will not be opened any more.
    fn is_gone(&self) -> bool;

    /// Whether the channel has been open in this run.
    fn was_open(&self) -> bool;

    /// Whether the child has ended, so that the output is read to its end only.
    fn is_draining(&self) -> bool;

    /// The child of this pid runs, so the peer may appear.
    fn start(&mut self, child: u32);

    /// The child has ended: releases what keeps the output from its end. Peers that have
    /// connected already are still served.
    fn begin_drain(&mut self);

    /// Opens the channel if the peer is there, else sees to it that
    /// [`Channel::connect`](super::Channel::connect) is called again.
    fn connect(&mut self, cx: &mut Cx<'_>) -> Option<Opened>;

    /// Opens the channel to a peer that has connected while another one is served, and whose place
    /// it takes. If the other one is not `ready` for that, sees to it that
    /// [`Channel::accept`](super::Channel::accept) is called again.
    #[cfg(feature = "consoles")]
    fn successor(&mut self, ready: bool, cx: &mut Cx<'_>) -> Option<Opened>;

    /// Makes its listening socket again if that is gone.
    #[cfg(feature = "consoles")]
    fn listen_again(&mut self, cx: &mut Cx<'_>);

    /// What became of relaying the descriptors.
    fn connected(&mut self, result: io::Result<()>, cx: &mut Cx<'_>);

    /// The output is at its end. Returns whether to [`connect`](Self::connect) again at once.
    fn closed(&mut self, cx: &mut Cx<'_>) -> bool;

    /// Accepts no further peer.
    fn stop_accepting(&mut self);

    /// Ends it, and removes what was made for it.
    fn close(&mut self, cx: &mut Cx<'_>);

    /// Its state, with the path of its log and the bytes logged and dropped.
    fn report(&self, log: Option<&Path>, bytes: (u64, u64)) -> ConsoleReport;
}

impl Backend {
    /// The peer, if the channel is not the child's own stdio.
    pub(super) fn peer(&mut self) -> Option<&mut dyn Peer> {
        match self {
            Self::Pipes { .. } | Self::Pty => None,
            Self::Peer(peer) => Some(&mut **peer),
        }
    }

    /// As [`peer`](Self::peer), to read from.
    pub(super) fn console(&self) -> Option<&dyn Peer> {
        match self {
            Self::Pipes { .. } | Self::Pty => None,
            Self::Peer(peer) => Some(&**peer),
        }
    }

    /// Whether it is the child's own stdio.
    pub(super) fn is_stdio(&self) -> bool {
        self.console().is_none()
    }

    /// Whether the output is the master of a PTY that we have made: it has a window size, and holds
    /// an unknown number of bytes, since `FIONREAD` reports a part of them only.
    pub(super) fn is_pty_master(&self) -> bool {
        matches!(self, Self::Pty) || self.console().and_then(Peer::pty_path).is_some()
    }

    /// Whether a terminal of the host's passes each keystroke on as it is typed.
    pub(super) fn takes_keystrokes(&self) -> bool {
        !matches!(self, Self::Pipes { .. })
    }

    /// Whether the input stays open while nothing writes to it.
    pub(super) fn input_lasts(&self) -> bool {
        match self {
            Self::Pipes { input_lasts } => *input_lasts,
            Self::Pty | Self::Peer(_) => true,
        }
    }

    /// Whether bytes can come now.
    pub(super) fn is_open(&self) -> bool {
        self.console().is_none_or(Peer::is_open)
    }

    /// Whether no further bytes can come once the outputs are at their end.
    pub(super) fn is_over(&self) -> bool {
        self.console().is_none_or(Peer::is_gone)
    }
}
