//! The attached clients of a sandbox: each a stream socket that gets one output of a channel, and
//! whose bytes may go to the input of that channel.
//!
//! They stay attached over all runs of the sandbox. None ever delays the child.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::Winsize;

use super::attach::{AttachTo, Attached, SessionId, SessionReport};
use super::call_out::PanicError;
use super::keys::{ChannelId, Cx, OutputId, Source, SourceKey, Sources};
use super::name::Name;
use super::output::OutputCallback;
use super::packet_clients::PacketClients;
use super::tty::Tty;
use crate::child;
use crate::logfile::Stream;
use crate::reactor::{Interest, SourceId};
use crate::relay::{Audience, Overflow, QUEUE, Sink};
use crate::terminal::WindowSize;

/// How long clients have to take the end of the output when the sandbox has stopped.
pub(super) const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// The most bytes that wait for all clients together. One client's share is between [`LEAST`] and
/// [`QUEUE`].
const ALL_QUEUES: usize = 4 << 20;
const LEAST: usize = 4 << 10;

/// From this number of clients on, a client that has hung up is removed although the child has yet
/// to take its input.
const CROWD: usize = 64;

/// Bytes read from a client at a time.
const CHUNK: usize = 16 * 1024;

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Reader,
    Writer {
        /// Sequence number of this client's last input or resize; the highest one of an output
        /// sets the window size.
        act: u64,
        /// The size of its terminal, once it has sent that.
        size: Option<WindowSize>,
    },
}

/// One attached client.
#[derive(Debug)]
struct Client {
    id: SessionId,
    to: AttachTo,
    output: OutputId,
    role: Role,
    socket: UnixStream,
    input: SourceId,
    /// Whether it has shut down its sending side.
    input_ended: bool,
    sink: Sink<UnixStream, SourceKey>,
    /// Left-out bytes for which a redraw has been asked.
    redrawn: u64,
}

impl Client {
    /// The sequence number and the size of a writer that has sent its size.
    fn sized(&self) -> Option<(u64, WindowSize)> {
        match self.role {
            Role::Reader => None,
            Role::Writer { act, size } => size.map(|size| (act, size)),
        }
    }

    fn is_reader(&self) -> bool {
        self.role == Role::Reader
    }

    /// Whether it gets no more output, and no input of it is left.
    fn is_done(&self) -> bool {
        let left = || child::bytes_available(self.socket.as_fd()).unwrap_or(0);
        self.sink.is_gone() && (self.is_reader() || left() == 0)
    }

    /// Whether its socket is closed in both directions. After the end of its input, no edge reports
    /// that until something is written.
    fn is_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        let _ = poll(&mut fds, PollTimeout::ZERO);
        let [fd] = fds;
        fd.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }
}

/// What came of reading a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientInput {
    /// Nothing for the child.
    Nothing,
    /// This many bytes of input are in the scratch buffer.
    Bytes(usize),
    /// The client has closed the connection.
    Closed,
}

/// The attached clients of one sandbox.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    list: Vec<Client>,
    /// The clients on packet sockets, if there are any: they get both outputs of the child's own
    /// stdio.
    packets: Option<Box<PacketClients>>,
    /// The host's own reader of every output.
    callback: Option<Box<OutputCallback>>,
    last_id: u64,
    last_act: u64,
    /// The output that the host's terminal is at, and the last act of that terminal.
    host: Option<(OutputId, u64)>,
    /// Whether no further output comes.
    over: bool,
    /// The outputs whose window size was set by a client that has gone.
    size_left: Vec<OutputId>,
}

/// How many bytes may wait for each of `clients` clients.
pub(super) fn share(clients: usize) -> usize {
    (ALL_QUEUES / clients.max(1)).clamp(LEAST, QUEUE)
}

/// The clients of one output.
pub(super) struct OutputAudience<'a> {
    attachments: &'a mut Attachments,
    output: OutputId,
    console: Option<&'a Name>,
    tty: Option<&'a mut Tty>,
}

impl Audience<SourceKey> for OutputAudience<'_> {
    fn is_empty(&self) -> bool {
        let attached = self.attachments.list.iter().any(|client| client.output == self.output);
        !attached && self.packets().is_none()
    }

    fn room(&self) -> usize {
        self.packets().map_or(usize::MAX, PacketClients::room)
    }

    fn offer(&mut self, bytes: &[u8], sources: &mut Sources<'_>) {
        if let Some(callback) = &mut self.attachments.callback {
            callback.offer(self.console, self.output.stream, bytes);
        }
        self.offer_to_clients(bytes, sources);
    }

    fn offer_notice(&mut self, line: &[u8], sources: &mut Sources<'_>) {
        if let Some(callback) = &mut self.attachments.callback {
            callback.offer(self.console, Stream::Notice, line);
        }
        self.offer_to_clients(line, sources);
    }
}

impl OutputAudience<'_> {
    fn offer_to_clients(&mut self, bytes: &[u8], sources: &mut Sources<'_>) {
        if let Some(tty) = &mut self.tty {
            tty.scan(bytes);
        }
        let clients = self.attachments.list.iter_mut();
        clients
            .filter(|client| client.output == self.output)
            .for_each(|client| client.sink.offer(bytes, sources));
        self.attachments.sweep(sources);
        if self.output.channel == ChannelId::STDIO
            && let Some(packets) = self.attachments.packets()
        {
            packets.offer(self.output.stream, bytes, sources);
        }
    }

    fn packets(&self) -> Option<&PacketClients> {
        let packets = self.attachments.packets.as_deref();
        packets.filter(|_| self.output.channel == ChannelId::STDIO)
    }
}

impl Attachments {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty() && self.packets.is_none()
    }

    /// Sets the host's own reader of every output.
    pub(super) fn set_callback(&mut self, callback: Option<Box<OutputCallback>>) {
        self.callback = callback;
    }

    /// A panic of the host's own reader that has not been noted yet.
    pub(super) fn take_callback_panic(&mut self) -> Option<PanicError> {
        self.callback.as_mut()?.take_panic()
    }

    /// The clients on packet sockets, if there are any.
    pub(super) fn packets(&mut self) -> Option<&mut PacketClients> {
        self.packets.as_deref_mut()
    }

    /// The place for the clients on packet sockets.
    pub(super) fn packets_slot(&mut self) -> &mut Option<Box<PacketClients>> {
        &mut self.packets
    }

    /// Whether output waits for clients on packet sockets.
    pub(super) fn packets_wait(&self) -> bool {
        self.packets.as_ref().is_some_and(|packets| packets.has_waiting())
    }

    /// An identifier for one more client.
    pub(super) fn next_id(&mut self) -> SessionId {
        self.last_id += 1;
        SessionId(self.last_id)
    }

    /// The readers of an output, which is that of this `console` or of the child's own stdio. `tty` is
    /// the state of its terminal, if it is that of one.
    pub(super) fn audience<'a>(
        &'a mut self,
        output: OutputId,
        console: Option<&'a Name>,
        tty: Option<&'a mut Tty>,
    ) -> OutputAudience<'a> {
        OutputAudience { attachments: self, output, console, tty }
    }

    /// Every client, in the order in which they were attached.
    pub(super) fn report(&self) -> Vec<SessionReport> {
        let report = |client: &Client| SessionReport {
            session: client.id,
            to: client.to.clone(),
            read_only: client.is_reader(),
            missed: client.sink.dropped(),
        };
        let packets = self.packets.iter().flat_map(|packets| packets.report());
        self.list.iter().map(report).chain(packets).collect()
    }

    /// Prepares for one more client; returns its identifier and how many bytes may wait for it.
    pub(super) fn reserve(&mut self, sources: &mut Sources<'_>) -> (SessionId, usize) {
        if self.list.len() >= CROWD {
            // While the child takes no input, no client is read, and no edge reports their end.
            self.remove_if(sources, Client::is_hung_up);
        }
        (self.next_id(), share(self.list.len() + 1))
    }

    /// Adds a client. It gets `first` before anything else.
    ///
    /// # Errors
    ///
    /// The socket can't be prepared or registered; it is returned.
    pub(super) fn add(
        &mut self,
        socket: UnixStream,
        attached: &Attached,
        output: OutputId,
        read_only: bool,
        first: [&[u8]; 2],
        sources: &mut Sources<'_>,
    ) -> Result<(), (io::Error, UnixStream)> {
        let id = attached.session;
        let prepared = socket.set_nonblocking(true).and_then(|()| {
            // Two descriptors of one socket: each can be registered by itself.
            let writer = socket.try_clone()?;
            let key = Source::ClientInput(id).key();
            Ok((writer, sources.register(&socket, Interest::READ, key)?))
        });
        let (writer, input) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Err((error, socket)),
        };
        let mut sink = Sink::new(writer, Source::ClientOutput(id).key(), Overflow::Drop);
        sink.set_room(first.iter().map(|part| part.len()).sum());
        for part in first {
            sink.offer(part, sources);
        }
        let role = if read_only { Role::Reader } else { Role::Writer { act: 0, size: None } };
        self.list.push(Client {
            id,
            to: attached.to.clone(),
            output,
            role,
            socket,
            input,
            input_ended: false,
            sink,
            redrawn: 0,
        });
        self.share_room();
        // A client that does not get the answer must not wait for it.
        self.sweep(sources);
        Ok(())
    }

    fn share_room(&mut self) {
        let room = share(self.list.len());
        self.list.iter_mut().for_each(|client| client.sink.set_room(room));
    }

    fn get(&self, id: SessionId) -> Option<&Client> {
        self.list.iter().find(|client| client.id == id)
    }

    fn get_mut(&mut self, id: SessionId) -> Option<&mut Client> {
        self.list.iter_mut().find(|client| client.id == id)
    }

    /// The output that a client is attached to.
    pub(super) fn output_of(&self, id: SessionId) -> Option<OutputId> {
        self.get(id).map(|client| client.output)
    }

    /// Whether the input of a client is discarded.
    pub(super) fn is_read_only(&self, id: SessionId) -> Option<bool> {
        self.get(id).map(Client::is_reader)
    }

    /// Removes clients that have closed their side, but one that has sent something only when that
    /// has been read.
    fn sweep(&mut self, sources: &mut Sources<'_>) {
        if self.list.iter().any(Client::is_done) {
            self.remove_if(sources, Client::is_done);
        }
    }

    /// Removes one client.
    pub(super) fn remove(&mut self, id: SessionId, sources: &mut Sources<'_>) {
        self.remove_if(sources, |client| client.id == id);
    }

    fn remove_if(&mut self, sources: &mut Sources<'_>, which: impl Fn(&Client) -> bool) {
        for client in self.list.iter().filter(|client| which(client)) {
            if self.size_owner(client.output).is_some_and(|owner| owner.id == client.id) {
                self.size_left.push(client.output);
            }
        }
        self.list.retain_mut(|client| {
            let goes = which(client);
            if goes {
                sources.deregister(client.input);
                client.sink.abandon(sources);
            }
            !goes
        });
        self.share_room();
    }

    /// Reads input of a client into the scratch buffer. `accepts` is whether the channel takes
    /// input now; the input of a read-only client is discarded.
    pub(super) fn read(&mut self, id: SessionId, accepts: bool, cx: &mut Cx<'_>) -> ClientInput {
        let Some(client) = self.get_mut(id) else { return ClientInput::Nothing };
        if !client.is_reader() && !accepts && !client.input_ended {
            // A change of the wish to read needs no system call, so this can't fail.
            let _ = cx.sources.want(client.input, Interest::NONE);
            return ClientInput::Nothing;
        }
        let size = CHUNK.min(cx.scratch.len());
        match client.socket.read(cx.scratch.get_mut(..size).unwrap_or_default()) {
            Ok(0) => {
                client.input_ended = true;
                cx.sources.would_block(client.input, Interest::READ);
                if client.is_hung_up() { ClientInput::Closed } else { ClientInput::Nothing }
            }
            Ok(_) if client.is_reader() => ClientInput::Nothing,
            Ok(count) => ClientInput::Bytes(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                cx.sources.would_block(client.input, Interest::READ);
                ClientInput::Nothing
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => ClientInput::Nothing,
            Err(_) => ClientInput::Closed,
        }
    }

    /// Has a client that is a terminal get the latest output if it does not keep up: the channel's
    /// program can draw its screen again.
    pub(super) fn keep_latest(&mut self, id: SessionId) {
        if let Some(client) = self.get_mut(id) {
            client.sink.set_overflow(Overflow::Latest);
            client.redrawn = client.sink.dropped();
        }
    }

    /// Sends what waits for a client that takes more. Returns the output that it is attached to, if
    /// it has all of it that is left, and a redraw is to replace the rest.
    pub(super) fn flush(&mut self, id: SessionId, sources: &mut Sources<'_>) -> Option<OutputId> {
        let mut redraw = None;
        if let Some(client) = self.get_mut(id) {
            client.sink.flush(sources);
            let dropped = client.sink.dropped();
            if client.sink.is_latest() && client.sink.is_empty() && dropped > client.redrawn {
                client.redrawn = dropped;
                redraw = Some(client.output);
            }
        }
        self.sweep(sources);
        if self.over {
            self.remove_if(sources, |client| client.sink.is_empty());
        }
        redraw
    }

    /// The channel takes input again.
    pub(super) fn resume_input(&mut self, channel: ChannelId, sources: &mut Sources<'_>) {
        for client in self.list.iter().filter(|client| client.output.channel == channel) {
            let _ = sources.want(client.input, Interest::READ);
        }
    }

    /// No further output comes: removes the clients that have all of it; returns whether others are
    /// left.
    pub(super) fn finish(&mut self, sources: &mut Sources<'_>) -> bool {
        self.over = true;
        self.remove_if(sources, |client| client.sink.is_empty());
        for client in &self.list {
            let _ = sources.want(client.input, Interest::NONE);
        }
        !self.list.is_empty()
    }

    /// Removes every client.
    pub(super) fn close(&mut self, sources: &mut Sources<'_>) {
        self.remove_if(sources, |_| true);
    }

    /// Notes input or a new size of the host's terminal, at this output; returns whether the size
    /// of a client was in effect until now.
    pub(super) fn host_act(&mut self, output: OutputId) -> bool {
        let owned = self.size_owner(output).is_some();
        self.host = Some((output, self.last_act));
        owned
    }

    /// The client whose size is in effect at an output, unless that is the host's terminal.
    fn size_owner(&self, output: OutputId) -> Option<&Client> {
        let host = self.host.filter(|(at, _)| *at == output).map_or(0, |(_, act)| act);
        let clients = self.list.iter().filter(|client| client.output == output);
        let sized = clients.filter_map(|client| Some((client.sized()?.0, client)));
        let newest = sized.max_by_key(|(act, _)| *act);
        newest.filter(|(act, _)| *act > host).map(|(_, client)| client)
    }

    /// The size that clients give an output; `None` if it is that of the host's terminal.
    pub(super) fn size(&self, output: OutputId) -> Option<Winsize> {
        let (_, size) = self.size_owner(output)?.sized()?;
        Some(size.winsize())
    }

    /// Whether answers of this client's terminal are input: those of another one are, if that has
    /// the size in effect. `host` is whether the host's terminal is at the output as well.
    pub(super) fn answers(&self, id: SessionId, host: bool) -> bool {
        let owner = self.output_of(id).map(|output| self.size_owner(output));
        owner.flatten().map_or(!host, |owner| owner.id == id)
    }

    /// Notes input of a writer, or its size; returns whether the size of another one was in effect
    /// until now.
    pub(super) fn act(&mut self, id: SessionId, new_size: Option<WindowSize>) -> bool {
        let Some(output) = self.output_of(id) else { return false };
        let owner = self.size_owner(output).map(|owner| owner.id);
        self.last_act += 1;
        let last = self.last_act;
        if let Some(Client { role: Role::Writer { act, size }, .. }) = self.get_mut(id) {
            *act = last;
            *size = new_size.or(*size);
        }
        owner != Some(id)
    }

    /// The outputs whose window size was that of a client that has gone since the last call.
    pub(super) fn take_size_left(&mut self) -> Vec<OutputId> {
        std::mem::take(&mut self.size_left)
    }
}
