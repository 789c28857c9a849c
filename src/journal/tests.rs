//! Entries on a socket that plays journald.

use std::fs;
use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

use nix::cmsg_space;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tempfile::TempDir;

use super::*;

/// A socket that plays journald.
struct Journald {
    directory: TempDir,
    socket: Option<UnixDatagram>,
    /// How many entries came as files.
    files: usize,
}

type Entry = Vec<(String, Vec<u8>)>;

impl Journald {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut journald = Self { directory, socket: None, files: 0 };
        journald.start();
        journald
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn options(&self) -> JournalOptions {
        JournalOptions { socket: self.path(), ..Default::default() }
    }

    /// Ends listening; what was not read is lost.
    fn stop(&mut self) {
        self.socket = None;
    }

    fn start(&mut self) {
        let _ = fs::remove_file(self.path());
        self.socket = Some(UnixDatagram::bind(self.path()).unwrap());
    }

    /// The next entry, if there is one.
    fn next(&mut self) -> Option<Entry> {
        let mut bytes = vec![0; 1 << 20];
        let mut control = cmsg_space!([i32; 1]);
        let socket = self.socket.as_ref().unwrap().as_raw_fd();
        let (count, file) = {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_DONTWAIT;
            let message = recvmsg::<()>(socket, &mut parts, Some(&mut control), flags).ok()?;
            let file = message.cmsgs().unwrap().find_map(|control| match control {
                ControlMessageOwned::ScmRights(received) => {
                    let file = File::open(format!("/proc/self/fd/{}", received[0])).unwrap();
                    nix::unistd::close(received[0]).unwrap();
                    Some(file)
                }
                _ => None,
            });
            (message.bytes, file)
        };
        bytes.truncate(count);
        if let Some(mut file) = file {
            assert_eq!(count, 0);
            let seals = fcntl(&file, FcntlArg::F_GET_SEALS).unwrap();
            assert!(SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_WRITE));
            file.read_to_end(&mut bytes).unwrap();
            self.files += 1;
        }
        Some(parse(&bytes))
    }

    fn entries(&mut self) -> Vec<Entry> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// The messages of the entries, and whether each ends no line.
    fn messages(&mut self) -> Vec<(String, bool)> {
        let entries = self.entries().into_iter();
        let message = |entry: Entry| {
            let text = String::from_utf8(entry[0].1.clone()).unwrap();
            (text, entry.iter().any(|(name, _)| name == "PARTIAL"))
        };
        entries.map(message).collect()
    }
}

fn parse(mut bytes: &[u8]) -> Entry {
    let mut entry = Vec::new();
    while !bytes.is_empty() {
        let at = bytes.iter().position(|byte| b"=\n".contains(byte)).unwrap();
        let name = String::from_utf8(bytes[..at].to_vec()).unwrap();
        let value = match bytes[at] {
            b'=' => {
                let end = bytes.iter().position(|&byte| byte == b'\n').unwrap();
                let value = bytes[at + 1..end].to_vec();
                bytes = &bytes[end + 1..];
                value
            }
            _ => {
                let size = u64::from_le_bytes(bytes[at + 1..at + 9].try_into().unwrap());
                let end = at + 9 + size as usize;
                assert_eq!(bytes[end], b'\n');
                let value = bytes[at + 9..end].to_vec();
                bytes = &bytes[end + 1..];
                value
            }
        };
        entry.push((name, value));
    }
    entry
}

fn field(name: &str, value: &str) -> Field {
    Field::new(name, value).unwrap()
}

fn partial(options: JournalOptions) -> JournalOptions {
    JournalOptions { partial: Some(field("PARTIAL", "true")), ..options }
}

fn whole(text: &str) -> (String, bool) {
    (text.to_owned(), false)
}

#[test]
fn an_entry_has_its_fields_in_the_order_of_conmon() {
    let mut journald = Journald::new();
    let mut journal = Journal::new(JournalOptions {
        before_priority: vec![field("CONTAINER_ID_FULL", "0123456789abcdef")],
        after_priority: vec![field("CONTAINER_ID", "0123456789ab"), field("CONTAINER_NAME", "web")],
        partial: Some(field("CONTAINER_PARTIAL_MESSAGE", "true")),
        last: vec![field("LABEL", "a\nb")],
        keep_newline: true,
        ..journald.options()
    });
    assert_eq!(journal.write(Stream::Stdout, b"out\n"), 4);
    assert_eq!(journal.write(Stream::Stderr, b"err"), 3);
    assert!(journal.finish());
    let entries = journald.entries();
    let expected: [&[(&str, &str)]; 2] = [
        &[
            ("MESSAGE", "out\n"),
            ("CONTAINER_ID_FULL", "0123456789abcdef"),
            ("PRIORITY", "6"),
            ("CONTAINER_ID", "0123456789ab"),
            ("CONTAINER_NAME", "web"),
            ("LABEL", "a\nb"),
        ],
        &[
            ("MESSAGE", "err"),
            ("CONTAINER_ID_FULL", "0123456789abcdef"),
            ("PRIORITY", "3"),
            ("CONTAINER_ID", "0123456789ab"),
            ("CONTAINER_NAME", "web"),
            ("CONTAINER_PARTIAL_MESSAGE", "true"),
            ("LABEL", "a\nb"),
        ],
    ];
    assert_eq!(entries.len(), expected.len());
    for (entry, expected) in entries.iter().zip(expected) {
        let entry: Vec<_> = entry
            .iter()
            .map(|(name, value)| (name.as_str(), str::from_utf8(value).unwrap()))
            .collect();
        assert_eq!(entry, expected);
    }
}

#[test]
fn a_line_is_put_together_from_several_reads_of_its_stream() {
    let mut journald = Journald::new();
    let mut journal = Journal::new(partial(journald.options()));
    for (stream, bytes) in [
        (Stream::Stdout, "on"),
        (Stream::Stderr, "other\n"),
        (Stream::Stdout, "e"),
        (Stream::Stdout, "\ntwo\n\nth"),
        (Stream::Stdout, "ree"),
    ] {
        assert_eq!(journal.write(stream, bytes.as_bytes()), bytes.len());
    }
    let expected = ["other", "one", "two", ""].map(whole);
    assert_eq!(journald.messages(), expected);
    assert!(journal.finish());
    assert_eq!(journald.messages(), [("three".to_owned(), true)]);
    assert!(journal.finish());
    assert_eq!(journald.messages(), []);
}

#[test]
fn what_would_wait_too_long_is_sent_as_a_part() {
    let mut journald = Journald::new();
    let mut journal = Journal::new(partial(journald.options()));
    let sizes = |journald: &mut Journald| -> Vec<(usize, bool)> {
        journald.messages().iter().map(|(text, partial)| (text.len(), *partial)).collect()
    };
    let piece = "x".repeat(8191);
    journal.write(Stream::Stdout, piece.as_bytes());
    assert_eq!(sizes(&mut journald), []);
    journal.write(Stream::Stdout, b"x");
    assert_eq!(sizes(&mut journald), [(8192, true)]);
    journal.write(Stream::Stdout, format!("{}\n", "x".repeat(40_000)).as_bytes());
    assert_eq!(sizes(&mut journald), [(16_384, true), (16_384, true), (7232, false)]);
}

#[test]
fn bytes_are_sent_as_they_are_but_for_the_end_of_a_line() {
    let mut journald = Journald::new();
    let mut journal = Journal::new(journald.options());
    journal.write(Stream::Tty, b"\x1b[1m\0\xff=\r\r\n");
    // The carriage return may come with an earlier read.
    journal.write(Stream::Tty, b"login:\r");
    journal.write(Stream::Tty, b"\n");
    let entries = journald.entries();
    assert_eq!(entries[0][0].1, b"\x1b[1m\0\xff=\r");
    assert_eq!(entries[1][0].1, b"login:");
}

#[test]
fn a_level_goes_into_a_field_of_its_own() {
    let mut journald = Journald::new();
    let mut journal =
        Journal::new(JournalOptions { level: Some("LEVEL"), ..partial(journald.options()) });
    let long = format!("<5>{}", "x".repeat(20_000));
    for line in ["<4>warn\n", "<8>no\n", "<3\n", " <1>\n", &long, "<2>rest\n", "<7>next\n"] {
        journal.write(Stream::Stdout, line.as_bytes());
    }
    let levels: Vec<Option<String>> = journald
        .entries()
        .iter()
        .map(|entry| {
            assert_eq!(entry[1], ("PRIORITY".to_owned(), b"6".to_vec()));
            let level = entry.iter().find(|(name, _)| name == "LEVEL");
            level.map(|(_, value)| String::from_utf8(value.clone()).unwrap())
        })
        .collect();
    let levels: Vec<Option<&str>> = levels.iter().map(Option::as_deref).collect();
    assert_eq!(levels, [Some("4"), None, None, None, Some("5"), None, Some("7")]);
}

#[test]
fn an_entry_beyond_a_datagram_is_sent_as_a_sealed_file() {
    let mut journald = Journald::new();
    let large = "x".repeat(1 << 19);
    let last = vec![field("LARGE", &large)];
    let mut journal = Journal::new(JournalOptions { last, ..journald.options() });
    assert_eq!(journal.write(Stream::Stdout, b"text\n"), 5);
    let entry = journald.next().unwrap();
    assert_eq!(journald.files, 1);
    assert_eq!(entry[0], ("MESSAGE".to_owned(), b"text".to_vec()));
    assert_eq!(entry.last(), Some(&("LARGE".to_owned(), large.into_bytes())));
}

/// Offers lines until no more is taken; returns how many bytes were.
fn fill(journal: &mut Journal, text: &[u8]) -> usize {
    let mut taken = 0;
    loop {
        let more = journal.write(Stream::Stdout, &text[taken..]);
        taken += more;
        if more == 0 {
            return taken;
        }
    }
}

#[test]
fn a_slow_journald_gets_everything_and_the_queue_is_bounded() {
    let mut journald = Journald::new();
    let mut journal = Journal::new(journald.options());
    let lines: Vec<String> = (0..30_000).map(|number| format!("line {number:095}\n")).collect();
    let text = lines.concat();
    let mut taken = fill(&mut journal, text.as_bytes());
    assert!(taken > 500_000 && taken < 2 << 20, "{taken}");
    assert!(journal.is_waiting() && journal.waits_on().is_some());
    let mut found = Vec::new();
    while found.len() < lines.len() {
        found.extend(journald.messages().into_iter().map(|(text, _)| text + "\n"));
        journal.flush();
        taken += journal.write(Stream::Stdout, &text.as_bytes()[taken..]);
    }
    assert!(found == lines);
    assert!(!journal.is_waiting() && journal.waits_on().is_none());
    assert_eq!(journal.dropped(), 0);
}

#[test]
fn a_restarted_journald_gets_what_came_meanwhile() {
    let mut journald = Journald::new();
    let mut journal = Journal::new(journald.options());
    journal.write(Stream::Stdout, b"1\n");
    assert_eq!(journald.messages(), [whole("1")]);
    // Another one listens before the next entry.
    journald.start();
    journal.write(Stream::Stdout, b"2\n");
    assert_eq!(journald.messages(), [whole("2")]);
    // The path has a socket that no process listens at.
    journald.stop();
    assert_eq!(journal.write(Stream::Stdout, b"3\n4\n"), 4);
    assert!(!journal.finish());
    assert!(journal.waits_on().is_none());
    journald.start();
    assert!(journal.finish());
    assert_eq!(journald.messages(), [whole("3"), whole("4")]);
    assert_eq!(journal.dropped(), 0);
}

#[test]
fn without_a_journald_entries_are_dropped_and_counted() {
    let mut journald = Journald::new();
    let mut journal = Journal::new(journald.options());
    journal.write(Stream::Stdout, b"1\n");
    assert_eq!(journald.messages(), [whole("1")]);
    journald.stop();
    fs::remove_file(journald.path()).unwrap();
    assert_eq!(journal.write(Stream::Stdout, b"22\n33"), 5);
    assert!(journal.finish());
    assert_eq!(journal.dropped(), 5);

    let mut never = Journal::new(journald.options());
    assert_eq!(never.write(Stream::Stdout, b"1\n"), 2);
    assert_eq!(never.dropped(), 2);
}

#[test]
fn entries_that_wait_are_given_up_and_counted() {
    let journald = Journald::new();
    let mut journal = Journal::new(journald.options());
    let text = "x".repeat(99) + "\n";
    let taken = fill(&mut journal, text.repeat(30_000).as_bytes());
    journal.give_up();
    assert!(!journal.is_waiting());
    // Those that the socket had taken are not lost.
    let mut journald = journald;
    let sent = journald.messages().len() * text.len();
    assert_eq!(journal.dropped(), (taken - sent) as u64);
}
