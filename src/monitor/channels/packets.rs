//! The packet clients at the channel of the child's own stdio.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};

use super::Channels;
use crate::child;
use crate::monitor::attach::{AttachError, EndOfInput, SessionId};
use crate::monitor::channel::Channel;
use crate::monitor::keys::{ChannelId, Cx};
use crate::monitor::packet_clients::{MOST, PacketClients, PacketInput};
use crate::reactor::Ready;

impl Channels {
    /// Attaches a client; see [`Monitor::attach_packets`](crate::monitor::Monitor::attach_packets).
    /// `ending` is whether the child has ended.
    pub(in crate::monitor) fn attach_packets(
        &mut self,
        client: OwnedFd,
        end: EndOfInput,
        ending: bool,
        cx: &mut Cx<'_>,
    ) -> Result<SessionId, (AttachError, OwnedFd)> {
        let Some(stdio) = self.stdio() else { return Err((AttachError::NotRunning, client)) };
        if let Err(error) = prepare(&client) {
            return Err((error, client));
        }
        let terminal = stdio.is_terminal();
        let id = self.attachments.next_id();
        let slot = self.attachments.packets_slot();
        let packets = slot.get_or_insert_with(|| Box::new(PacketClients::new(terminal, ending)));
        let added = match packets.reserve(&mut cx.sources) {
            true => packets.add(id, client, end, &mut cx.sources),
            false => Err((AttachError::TooMany(MOST), client)),
        };
        self.follow_packets(cx);
        added.map(|()| id)
    }

    /// A client is ready; its input goes to the child if that is `alive`. Returns whether any has.
    pub(in crate::monitor) fn serve_packets(
        &mut self,
        id: SessionId,
        ready: Ready,
        alive: bool,
        cx: &mut Cx<'_>,
    ) -> bool {
        let Self { list, attachments, .. } = self;
        let Some(packets) = attachments.packets() else { return false };
        let stdio = list.iter_mut().find(|channel| channel.id() == ChannelId::STDIO);
        let mut stdio = stdio.filter(|_| alive);
        let accepts = stdio.as_deref().is_none_or(Channel::accepts_input);
        match (packets.serve(id, ready, accepts, cx), &mut stdio) {
            (PacketInput::Bytes(count), Some(stdio)) => {
                let bytes = cx.scratch.get(..count).unwrap_or_default();
                stdio.send_input(bytes, &mut cx.sources);
                true
            }
            (PacketInput::Ended, Some(stdio)) => {
                stdio.end_client_input(&mut cx.sources);
                false
            }
            (PacketInput::Bytes(_) | PacketInput::Ended, None)
            | (PacketInput::Nothing | PacketInput::Closed, _) => false,
        }
    }

    /// The time of a client may be over that has taken nothing.
    pub(in crate::monitor) fn packets_timer(&mut self, cx: &mut Cx<'_>) {
        if let Some(packets) = self.attachments.packets() {
            packets.timer_expired(&mut cx.sources);
        }
    }

    /// Holds the outputs back while a client that takes packets has a full queue, and sets the timer
    /// that bounds it. Follows each change of the clients.
    pub(in crate::monitor) fn follow_packets(&mut self, cx: &mut Cx<'_>) {
        let Self { list, attachments, .. } = self;
        let Some(packets) = attachments.packets() else { return };
        let held_back = packets.room() == 0;
        packets.follow(cx);
        for channel in list.iter_mut().filter(|channel| channel.id() == ChannelId::STDIO) {
            channel.hold_back(held_back, &mut cx.sources);
        }
        if packets.is_empty() {
            *attachments.packets_slot() = None;
        }
    }

    /// Closes every client.
    pub(in crate::monitor) fn close_packets(&mut self, cx: &mut Cx<'_>) {
        if let Some(packets) = self.attachments.packets() {
            packets.close(cx);
            self.follow_packets(cx);
        }
    }
}

/// Makes a client's socket non-blocking and close-on-exec.
fn prepare(client: &OwnedFd) -> Result<(), AttachError> {
    let kind = getsockopt(client, sockopt::SockType).map_err(io::Error::from)?;
    if kind != SockType::SeqPacket {
        return Err(AttachError::NoPacketSocket);
    }
    fcntl(client, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(io::Error::from)?;
    child::set_nonblocking(client.as_fd())?;
    Ok(())
}
