//! Those who are attached: each a stream socket that gets one of the child's outputs, and whose
//! bytes may go to the child's input.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::Winsize;
use tracing::debug;

use super::attach::{Attach, AttachError, AttachTo, Attached, SessionId, SessionReport};
use super::keys::{Cx, Source, SourceKey, Sources, Stream};
use super::streams::Streams;
use super::{Monitor, RequestError, State};
use crate::reactor::{Interest, SourceId};
use crate::relay::{Audience, Overflow, QUEUE, Sink};

/// How long a client has to take the end of the output once all is over.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// What waits for all clients of one sandbox together, at most; what one has of it is between
/// [`LEAST`] and [`QUEUE`].
const ALL_QUEUES: usize = 4 << 20;
const LEAST: usize = 4 << 10;

/// From so many clients on, one that has left goes although the child has yet to take what it sent.
const CROWD: usize = 64;

/// Bytes read from a client at a time.
const CHUNK: usize = 16 * 1024;

/// What a client can do to the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Reader,
    /// Has sent something, or told its size, as the so manieth act of all writers.
    Writer {
        act: u64,
        size: Option<(u16, u16)>,
    },
}

/// One attached client.
#[derive(Debug)]
struct Session {
    id: SessionId,
    to: AttachTo,
    stream: Stream,
    role: Role,
    socket: UnixStream,
    input: SourceId,
    /// Whether it has said that it will send no more.
    input_ended: bool,
    sink: Sink<UnixStream, SourceKey>,
}

impl Session {
    /// The last act of a writer.
    fn act(&self) -> Option<u64> {
        match self.role {
            Role::Reader => None,
            Role::Writer { act, .. } => Some(act),
        }
    }

    fn size(&self) -> Option<(u16, u16)> {
        match self.role {
            Role::Reader => None,
            Role::Writer { size, .. } => size,
        }
    }

    /// Whether its other side is closed both ways. After an end of its input nothing else tells
    /// that, until something is written.
    fn is_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        let _ = poll(&mut fds, PollTimeout::ZERO);
        let [fd] = fds;
        fd.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }
}

/// Those who are attached to one sandbox, over all its runs.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    list: Vec<Session>,
    last_id: u64,
    acts: u64,
    /// The last act of our own terminal: its size counts from there on, where it is.
    ours: u64,
    /// Whether nothing more will come.
    over: bool,
    /// The streams whose writer has left whose size counted: the terminal has that size still.
    newest_left: Vec<Stream>,
}

/// Those who get one of the child's outputs.
pub(super) struct StreamAudience<'a> {
    sessions: &'a mut Sessions,
    stream: Stream,
}

impl Audience<SourceKey> for StreamAudience<'_> {
    fn is_empty(&self) -> bool {
        !self.sessions.list.iter().any(|session| session.stream == self.stream)
    }

    fn offer(&mut self, bytes: &[u8], sources: &mut Sources<'_>) {
        let members = self.sessions.list.iter_mut().filter(|session| session.stream == self.stream);
        members.for_each(|session| session.sink.offer(bytes, sources));
        self.sessions.sweep(sources);
    }
}

impl Sessions {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn audience(&mut self, stream: Stream) -> StreamAudience<'_> {
        StreamAudience { sessions: self, stream }
    }

    pub(super) fn report(&self) -> Vec<SessionReport> {
        let report = |session: &Session| SessionReport {
            session: session.id,
            to: session.to.clone(),
            read_only: session.role == Role::Reader,
            missed: session.sink.dropped(),
        };
        self.list.iter().map(report).collect()
    }

    /// How many bytes may wait for each of so many clients.
    fn room(clients: usize) -> usize {
        (ALL_QUEUES / clients.max(1)).clamp(LEAST, QUEUE)
    }

    /// Takes a client in. `first` goes to it before anything else.
    fn add(
        &mut self,
        socket: UnixStream,
        attached: &Attached,
        stream: Stream,
        read_only: bool,
        first: [&[u8]; 2],
        sources: &mut Sources<'_>,
    ) -> Result<(), (io::Error, UnixStream)> {
        let id = attached.session;
        let prepared = socket.set_nonblocking(true).and_then(|()| {
            // Two descriptors of one socket: each can be watched for itself.
            let writer = socket.try_clone()?;
            Ok((writer, sources.register(&socket, Interest::READ, Source::SessionInput(id).key())?))
        });
        let (writer, input) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Err((error, socket)),
        };
        let mut sink = Sink::new(writer, Source::SessionOutput(id).key(), Overflow::Drop);
        sink.set_room(first.iter().map(|part| part.len()).sum());
        for part in first {
            sink.offer(part, sources);
        }
        let role = if read_only { Role::Reader } else { Role::Writer { act: 0, size: None } };
        let session = Session {
            id,
            to: attached.to.clone(),
            stream,
            role,
            socket,
            input,
            input_ended: false,
            sink,
        };
        self.list.push(session);
        self.share();
        Ok(())
    }

    fn share(&mut self) {
        let room = Self::room(self.list.len());
        self.list.iter_mut().for_each(|session| session.sink.set_room(room));
    }

    fn get(&mut self, id: SessionId) -> Option<&mut Session> {
        self.list.iter_mut().find(|session| session.id == id)
    }

    /// Lets those go whose client has gone.
    fn sweep(&mut self, sources: &mut Sources<'_>) {
        if self.list.iter().any(|session| session.sink.is_gone()) {
            self.let_go(sources, |session| session.sink.is_gone());
        }
    }

    fn let_go(&mut self, sources: &mut Sources<'_>, which: impl Fn(&Session) -> bool) {
        for session in self.list.iter().filter(|session| which(session)) {
            let newest = self.newest(session.stream).map(|newest| newest.id);
            if newest == Some(session.id) {
                self.newest_left.push(session.stream);
            }
        }
        self.list.retain_mut(|session| {
            let goes = which(session);
            if goes {
                sources.deregister(session.input);
                session.sink.abandon(sources);
            }
            !goes
        });
        self.share();
    }

    /// Goes on sending, once a client takes more.
    fn flush(&mut self, id: SessionId, sources: &mut Sources<'_>) {
        if let Some(session) = self.get(id) {
            session.sink.flush(sources);
        }
        self.sweep(sources);
        if self.over {
            self.let_go(sources, |session| session.sink.is_empty());
        }
    }

    /// The child takes input again.
    pub(super) fn go_on(&mut self, sources: &mut Sources<'_>) {
        for session in &self.list {
            // Reading alone never asks the kernel, so this can't fail.
            let _ = sources.want(session.input, Interest::READ);
        }
    }

    /// Nothing more will come: lets those go who have all of it, and says whether others are left.
    pub(super) fn finish(&mut self, sources: &mut Sources<'_>) -> bool {
        self.over = true;
        self.let_go(sources, |session| session.sink.is_empty());
        for session in &self.list {
            let _ = sources.want(session.input, Interest::NONE);
        }
        !self.list.is_empty()
    }

    pub(super) fn close_all(&mut self, sources: &mut Sources<'_>) {
        self.let_go(sources, |_| true);
    }

    /// Notes an act of our own terminal at this stream; says whether its size did not count until
    /// now.
    fn our_act(&mut self, stream: Stream) -> bool {
        let newest = self.newest(stream).is_some();
        self.ours = self.acts;
        newest
    }

    /// The writer whose size counts at this stream, unless that is our own terminal's.
    fn newest(&self, stream: Stream) -> Option<&Session> {
        let sized = self.list.iter().filter(|one| one.stream == stream && one.size().is_some());
        let newest = sized.max_by_key(|session| session.act());
        newest.filter(|session| session.act().is_some_and(|act| act > self.ours))
    }

    /// Notes an act of a writer; says whether it was not the last one's.
    fn act(&mut self, id: SessionId, new_size: Option<(u16, u16)>) -> bool {
        let Some(stream) = self.get(id).map(|session| session.stream) else { return false };
        let newest = self.newest(stream).map(|session| session.id);
        self.acts += 1;
        let acts = self.acts;
        if let Some(Session { role: Role::Writer { act, size }, .. }) = self.get(id) {
            *act = acts;
            *size = new_size.or(*size);
        }
        newest != Some(id)
    }
}

impl Monitor {
    /// Attaches a client: `preamble` goes to it first, then the end of the log as asked for, then
    /// what the child writes from here on, without a gap. What it sends goes to the child.
    ///
    /// The monitor owns the stream from here on and makes it non-blocking. A client that does not
    /// keep up is skipped forward, with a line that says how many bytes it has missed; it never
    /// holds the child up. Up to 256 KiB wait for one, and 4 MiB for all of them; so much of the
    /// log is what it gets at most.
    ///
    /// The log of a child on pipes holds both its streams, and so does its end. A client of a console
    /// stays while that is closed and opened again; what it sends meanwhile is lost.
    ///
    /// # Errors
    ///
    /// Nothing has been sent then, and the stream comes back.
    pub fn attach(
        &mut self,
        client: UnixStream,
        request: &Attach,
        preamble: impl FnOnce(&Attached) -> Vec<u8>,
        cx: &mut Cx<'_>,
    ) -> Result<Attached, (AttachError, UnixStream)> {
        let Some(streams) = self.streams.as_mut().filter(|_| {
            matches!(self.state, State::Running(_) | State::Stopping(..) | State::Draining(_))
        }) else {
            return Err((AttachError::NotRunning, client));
        };
        let default = match self.consoles.interactive() {
            Some(port) => AttachTo::Console(port.name().clone()),
            None if streams.has_terminal() => AttachTo::Tty,
            None => AttachTo::Stdout,
        };
        let (to, stream) = match request.to.clone().unwrap_or(default) {
            AttachTo::Console(name) => match self.consoles.find(&name) {
                Some(id) => (AttachTo::Console(name), Stream::Console(id)),
                None => return Err((AttachError::NoSuchConsole(name), client)),
            },
            to => match streams.stream(&to) {
                Some(found) => found,
                None => return Err((AttachError::NoSuchStream(to), client)),
            },
        };
        if self.sessions.list.len() >= CROWD {
            // While the child takes no input, none of theirs is read, and nothing tells their end.
            self.sessions.let_go(&mut cx.sources, Session::is_hung_up);
        }
        let room = Sessions::room(self.sessions.list.len() + 1);
        let most = usize::try_from(request.tail).unwrap_or(usize::MAX).min(room);
        let tail = match stream {
            _ if most == 0 => Vec::new(),
            Stream::Console(id) => {
                self.consoles.get(id).map(|port| port.log_tail(most)).unwrap_or_default()
            }
            Stream::Out | Stream::Err => streams.log_tail(most),
        };
        self.sessions.last_id += 1;
        let session = SessionId(self.sessions.last_id);
        let attached = Attached { session, to, tail: tail.len() as u64 };
        let first = [&preamble(&attached)[..], &tail];
        self.sessions
            .add(client, &attached, stream, request.read_only, first, &mut cx.sources)
            .map_err(|(error, client)| (AttachError::System(error), client))?;
        self.follow_size();
        debug!(name = %self.sandbox.name, session = session.0, "attached");
        Ok(attached)
    }

    /// Gives the child's terminal the size of a session's, which counts until another writer types
    /// or tells its own.
    ///
    /// # Errors
    ///
    /// No such session, one that is read-only, or a child without a terminal.
    pub fn resize(
        &mut self,
        session: SessionId,
        rows: u16,
        columns: u16,
    ) -> Result<(), RequestError> {
        let known = self.sessions.get(session).ok_or(RequestError::NoSuchSession(session))?;
        if known.role == Role::Reader {
            return Err(RequestError::ReadOnly(session));
        }
        let stream = known.stream;
        self.sessions.act(session, Some((rows, columns)));
        if self.streams.is_none() {
            return Err(RequestError::NotRunning);
        }
        self.resize_to(stream, rows, columns)
            .ok_or(RequestError::NoTerminal)?
            .map_err(|error| RequestError::System(error.to_string()))
    }

    /// Gives the child bytes that a client has sent before it was attached, as if they had come
    /// after that. Those of a session that is read-only are nobody's.
    pub fn send(&mut self, session: SessionId, bytes: &[u8], cx: &mut Cx<'_>) {
        let writer = self.sessions.get(session).filter(|known| known.role != Role::Reader);
        let (Some(stream), State::Running(_) | State::Stopping(..)) =
            (writer.map(|known| known.stream), &self.state)
        else {
            return;
        };
        // The size comes first: who types sees the child's answer to that key at that size.
        if self.sessions.act(session, None) {
            self.size_of_newest(stream);
        }
        match stream {
            Stream::Console(id) => {
                if let Some(port) = self.consoles.get(id) {
                    port.send_input(bytes, &mut cx.sources);
                }
            }
            Stream::Out | Stream::Err => {
                if let Some(streams) = &mut self.streams {
                    streams.send_input(bytes, &mut cx.sources);
                }
            }
        }
        self.note_moved();
    }

    /// Reads what a client has sent.
    pub(super) fn read_session(&mut self, id: SessionId, cx: &mut Cx<'_>) {
        let Some(session) = self.sessions.get(id) else { return };
        let accepts = match session.stream {
            Stream::Console(id) => self.consoles.get(id).is_some_and(|port| port.accepts_input()),
            Stream::Out | Stream::Err => self.streams.as_ref().is_some_and(Streams::accepts_input),
        };
        let reader = session.role == Role::Reader;
        if !reader && !accepts && !session.input_ended {
            let _ = cx.sources.want(session.input, Interest::NONE);
            return;
        }
        let size = CHUNK.min(cx.scratch.len());
        match session.socket.read(cx.scratch.get_mut(..size).unwrap_or_default()) {
            Ok(0) => {
                session.input_ended = true;
                cx.sources.would_block(session.input, Interest::READ);
                if session.is_hung_up() {
                    self.let_go(id, cx);
                }
            }
            Ok(_) if reader => {}
            Ok(count) => {
                let bytes = cx.scratch.get(..count).unwrap_or_default().to_vec();
                self.send(id, &bytes, cx);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                cx.sources.would_block(session.input, Interest::READ);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.let_go(id, cx),
        }
    }

    fn let_go(&mut self, id: SessionId, cx: &mut Cx<'_>) {
        debug!(name = %self.sandbox.name, session = id.0, "detached");
        self.sessions.let_go(&mut cx.sources, |session| session.id == id);
        self.follow_size();
    }

    /// Goes on sending to a client.
    pub(super) fn flush_session(&mut self, id: SessionId, cx: &mut Cx<'_>) {
        self.sessions.flush(id, &mut cx.sources);
        self.follow_size();
    }

    /// Where the writer whose size counted has left, that of the one before it counts again.
    pub(super) fn follow_size(&mut self) {
        for stream in std::mem::take(&mut self.sessions.newest_left) {
            self.size_of_newest(stream);
        }
    }

    /// Our own terminal has a new size, which counts from here on.
    pub(super) fn our_size(&mut self) {
        let stream = self.our_stream();
        self.sessions.our_act(stream);
        self.resize_to_ours(stream);
    }

    /// Reads our stdin; whoever types there has the size that counts.
    pub(super) fn read_stdin(&mut self, cx: &mut Cx<'_>) {
        let stream = self.our_stream();
        let is_session = match (self.consoles.interactive(), &mut self.streams) {
            (Some(port), _) => {
                port.stdin_ready(cx);
                port.is_session()
            }
            (None, Some(streams)) => {
                streams.input_ready(cx);
                streams.is_session()
            }
            (None, None) => return,
        };
        if is_session && self.sessions.our_act(stream) {
            self.resize_to_ours(stream);
        }
        self.note_moved();
    }

    /// The stream that our own terminal is at.
    fn our_stream(&mut self) -> Stream {
        self.consoles.interactive().map_or(Stream::Out, |port| Stream::Console(port.id()))
    }

    fn resize_to_ours(&mut self, stream: Stream) {
        match (stream, &mut self.streams) {
            (Stream::Console(id), _) => {
                if let Some(port) = self.consoles.get(id) {
                    port.resize_to_ours();
                }
            }
            (Stream::Out | Stream::Err, Some(streams)) => streams.resize(),
            (Stream::Out | Stream::Err, None) => {}
        }
    }

    /// Gives a stream's terminal this size; `None` where it is none.
    fn resize_to(&mut self, stream: Stream, rows: u16, columns: u16) -> Option<io::Result<()>> {
        let size = winsize(rows, columns);
        match stream {
            Stream::Console(id) => self.consoles.get(id)?.resize_to(&size),
            Stream::Out | Stream::Err => self.streams.as_mut()?.resize_to(&size),
        }
    }

    /// Gives a stream's terminal the size of its newest writer.
    fn size_of_newest(&mut self, stream: Stream) {
        match self.sessions.newest(stream).and_then(Session::size) {
            Some((rows, columns)) => {
                if let Some(Err(error)) = self.resize_to(stream, rows, columns) {
                    debug!("can't resize the child's terminal: {error}");
                }
            }
            None => self.resize_to_ours(stream),
        }
    }
}

fn winsize(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
