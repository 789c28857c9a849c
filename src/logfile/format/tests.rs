//! The formats against what others write and read.

use fastrand::Rng;

use super::*;

type Decoded<B> = (Option<u64>, Option<Stream>, B);

/// All whole records, and what is left behind them.
fn decoded(format: Format, mut bytes: &[u8]) -> (Vec<Decoded<Vec<u8>>>, &[u8]) {
    let mut decoder = Decoder::new(format);
    let mut records = Vec::new();
    while let Some(record) = decoder.next(bytes) {
        let time = record.time.map(Timestamp::nanoseconds);
        records.push((time, record.stream, record.bytes.to_vec()));
        bytes = &bytes[record.size..];
    }
    (records, bytes)
}

#[track_caller]
fn assert_decodes(format: Format, log: &[u8], expected: &[Decoded<&[u8]>]) {
    let (records, rest) = decoded(format, log);
    let records: Vec<Decoded<&[u8]>> =
        records.iter().map(|(time, stream, bytes)| (*time, *stream, bytes.as_slice())).collect();
    assert_eq!(records, expected);
    assert_eq!(rest, b"");
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn lines_of_other_cri_writers_are_read() {
    let log = b"1970-01-01T00:00:01.000000007Z stdout F one \n\
                1970-01-01T02:00:02+02:00 stderr P two\xff\n\
                1970-01-01T00:00:03.5Z stderr F:later \n\
                1970-01-01T00:00:04Z stdout P:a:b three\n";
    assert_decodes(
        Format::Cri,
        log,
        &[
            (Some(SECOND + 7), Some(Stream::Stdout), b"one \n"),
            (Some(2 * SECOND), Some(Stream::Stderr), b"two\xff"),
            (Some(3 * SECOND + SECOND / 2), Some(Stream::Stderr), b"\n"),
            (Some(4 * SECOND), Some(Stream::Stdout), b"three"),
        ],
    );
}

#[test]
fn lines_that_are_not_records_are_returned_unchanged() {
    for line in [
        "\n",
        "panic: out of memory\n",
        "1970-01-01T00:00:01Z stdout F\n",
        "1970-01-01T00:00:01Z stdin F x\n",
        "1970-01-01T00:00:01Z stdout Full x\n",
        "yesterday stdout F x\n",
        "{\"log\":\"x\\n\"}\n",
        "{\"log\":\"x\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:01Z\"\n",
        "{\"log\":\"x\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:01Z\"}}\n",
        "{\"log\":\"x\n",
        "{\"log\":\"x\\\n",
        "[]\n",
        "{}\n",
    ] {
        for format in [Format::Raw, Format::Cri, Format::Json] {
            assert_decodes(format, line.as_bytes(), &[(None, None, line.as_bytes())]);
        }
    }
}

#[test]
fn lines_of_docker_are_read() {
    let log = br#"{"log":"a\u003cb\u0026\u001b[0m\t\"\\\/\b\f\r\n","stream":"stdout","time":"1970-01-01T00:00:01.5Z"}
{"log":"\u00e4\ud83d\ude80\ud83d \u2028\ufffd","stream":"stderr","attrs":{"tag":"}\"","n":[1,{}]},"time":"1970-01-01T00:00:02Z"}
{"stream":"stdout","time":"1970-01-01T00:00:03Z"}
 { "time" : "0001-01-01T00:00:00Z" , "log" : "plain" , "stream" : "stderr" } 
"#;
    assert_decodes(
        Format::Json,
        log,
        &[
            (Some(SECOND + SECOND / 2), Some(Stream::Stdout), b"a<b&\x1b[0m\t\"\\/\x08\x0c\r\n"),
            (Some(2 * SECOND), Some(Stream::Stderr), "ä🚀\u{fffd} \u{2028}\u{fffd}".as_bytes()),
            (Some(3 * SECOND), Some(Stream::Stdout), b""),
            (None, Some(Stream::Stderr), b"plain"),
        ],
    );
}

#[test]
fn a_torn_last_line_is_left_for_later() {
    for (format, line) in [
        (Format::Cri, b"1970-01-01T00:00:01Z stdout F text\n".as_slice()),
        (
            Format::Json,
            b"{\"log\":\"a\\n\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:01Z\"}\n",
        ),
    ] {
        for cut in 0..line.len() {
            let log = [line, &line[..cut]].concat();
            let (records, rest) = decoded(format, &log);
            assert_eq!((records.len(), rest), (1, &line[..cut]));
        }
    }
}

#[test]
fn the_first_line_shows_the_format() {
    for (line, expected) in [
        ("1970-01-01T00:00:01Z stdout F text\n", Some(Format::Cri)),
        ("1970-01-01T00:00:01.25+00:00 stderr P no newline yet", Some(Format::Cri)),
        ("1970-01-01T00:00:01Z stdout ", None),
        ("1970-01-01T00:00:01Z text\n", None),
        ("", None),
        ("\n1970-01-01T00:00:01Z stdout F text\n", None),
        (
            "{\"log\":\"a\\n\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:01Z\"}\n",
            Some(Format::Json),
        ),
        (
            "{\"log\":\"a\",\"stream\":\"stderr\",\"attrs\":{\"tag\":\"b\"},\"time\":\"1970-01-01T00:00:01Z\"}\nx",
            Some(Format::Json),
        ),
        ("{\"log\":\"a\\n\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:01Z\"}", None),
        ("{\"log\":\"a\\n\",\"stream\":\"stdout\",\"time\":\"now\"}\n", None),
        ("{\"log\":\"a\\n\",\"time\":\"1970-01-01T00:00:01Z\"}\n", None),
        (
            "{\"log\":\"a\",\"level\":1,\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:01Z\"}\n",
            None,
        ),
    ] {
        assert_eq!(sniff(line.as_bytes()), expected, "{line}");
    }
}

/// Lines of any bytes.
fn any_bytes(random: &mut Rng) -> Vec<u8> {
    let count = random.usize(..2000);
    let odds = random.choice([2, 60, 3000]).unwrap();
    (0..count).map(|_| if random.u16(..odds) == 0 { b'\n' } else { random.u8(..) }).collect()
}

/// Lines of characters of each size, and of each that is escaped.
fn any_text(random: &mut Rng) -> String {
    const CHARACTERS: &[char] = &[
        'a',
        'b',
        '\n',
        '\r',
        '\t',
        '\0',
        '\u{1b}',
        '\u{7f}',
        '"',
        '\\',
        '<',
        '>',
        '&',
        'ä',
        '€',
        '\u{2028}',
        '\u{2029}',
        '\u{2027}',
        '\u{fffd}',
        '\u{ffff}',
        '🚀',
        '\u{10ffff}',
    ];
    (0..random.usize(..700)).map(|_| random.choice(CHARACTERS).unwrap()).collect()
}

fn any_stream(random: &mut Rng) -> Stream {
    random.choice([Stream::Stdout, Stream::Stderr, Stream::Tty, Stream::Notice]).unwrap()
}

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// What of the chunks a reader can know the stream of.
fn of_stream<B: AsRef<[u8]>>(wanted: Stream, chunks: &[(Stream, B)]) -> Vec<u8> {
    let is = |stream| matches!(stream, Stream::Stdout | Stream::Tty) == (wanted == Stream::Stdout);
    let of = chunks.iter().filter(|(stream, _)| is(*stream));
    of.flat_map(|(_, bytes)| bytes.as_ref().to_vec()).collect()
}

fn encoded<B: AsRef<[u8]>>(format: Format, chunks: &[(Stream, B)]) -> Vec<u8> {
    let mut encoder = Encoder::new(format);
    let mut log = Vec::new();
    for (at, (stream, bytes)) in chunks.iter().enumerate() {
        let time = Timestamp::from_nanoseconds(at as u64);
        encoder.encode(time, *stream, bytes.as_ref(), &mut log);
    }
    encoder.finish(Timestamp::default(), &mut log);
    log
}

/// What all records of a stream say, joined. Each must be one of the format.
fn joined(format: Format, wanted: Stream, log: &[u8]) -> Vec<u8> {
    let (records, rest) = decoded(format, log);
    assert_eq!(rest, b"");
    let mut bytes = Vec::new();
    for (time, stream, text) in records {
        assert!(time.is_some() && text.len() <= LONGEST);
        if stream.unwrap() == wanted {
            bytes.extend(text);
        }
    }
    bytes
}

#[test]
fn any_bytes_in_any_chunks_come_back_from_cri() {
    let mut random = Rng::with_seed(0x9e37_79b9_7f4a_7c15);
    for _ in 0..60 {
        let chunks: Vec<_> = (0..random.usize(..20))
            .map(|_| (any_stream(&mut random), any_bytes(&mut random)))
            .collect();
        let log = encoded(Format::Cri, &chunks);
        for stream in STREAMS {
            let mut expected = of_stream(stream, &chunks);
            if !expected.is_empty() && !expected.ends_with(b"\n") {
                expected.push(b'\n');
            }
            assert!(joined(Format::Cri, stream, &log) == expected);
        }
    }
}

#[test]
fn any_text_in_any_chunks_comes_back_from_json() {
    let mut random = Rng::with_seed(0x9e37_79b9_7f4a_7c15);
    for _ in 0..60 {
        let text = any_text(&mut random);
        let mut chunks = Vec::new();
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let longest = random.choice([2, 5, 300]).unwrap();
            let (chunk, after) = rest.split_at(rest.len().min(random.usize(1..=longest)));
            chunks.push((Stream::Stdout, chunk));
            rest = after;
        }
        let log = encoded(Format::Json, &chunks);
        assert_eq!(str::from_utf8(&joined(Format::Json, Stream::Stdout, &log)).unwrap(), text);
        for line in str::from_utf8(&log).unwrap().lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(value.as_object().unwrap().len(), 3);
        }
    }
}

#[test]
fn any_bytes_are_valid_json_and_each_that_is_no_text_is_replaced_whatever_the_chunks() {
    let mut random = Rng::with_seed(0x9e37_79b9_7f4a_7c15);
    for _ in 0..60 {
        let chunks: Vec<_> = (0..random.usize(..20))
            .map(|_| (any_stream(&mut random), any_bytes(&mut random)))
            .collect();
        let log = encoded(Format::Json, &chunks);
        for line in str::from_utf8(&log).unwrap().lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
        for stream in STREAMS {
            let mut expected = String::new();
            for part in of_stream(stream, &chunks).utf8_chunks() {
                expected.push_str(part.valid());
                expected.extend(part.invalid().iter().map(|_| '\u{fffd}'));
            }
            assert!(joined(Format::Json, stream, &log) == expected.as_bytes());
        }
    }
}

#[test]
fn a_character_is_never_split_between_records() {
    let text = "🚀€ä\n".as_bytes();
    for longest in 4..30 {
        for cut in 0..=text.len() {
            let mut encoder = Encoder::new(Format::Json);
            encoder.longest = longest;
            let mut log = Vec::new();
            for chunk in [&text[..cut], &text[cut..]] {
                encoder.encode(Timestamp::default(), Stream::Stdout, chunk, &mut log);
            }
            assert_eq!(joined(Format::Json, Stream::Stdout, &log), text, "{longest} {cut}");
        }
    }
}

#[test]
fn a_long_line_is_many_records_of_which_the_last_ends_it() {
    for format in [Format::Cri, Format::Json] {
        let line = [vec![b'x'; 2 * LONGEST], b"\n".to_vec()].concat();
        let (records, _) = decoded(format, &encoded(format, &[(Stream::Stdout, &line)]));
        let sizes: Vec<_> = records.iter().map(|(_, _, text)| text.len()).collect();
        assert_eq!(sizes, [LONGEST, LONGEST, 1]);
        assert_eq!(records[2].2, b"\n");
    }
}

#[test]
fn no_record_is_longer_on_disk_than_it_may_be() {
    let worst = vec![0; 3 * LONGEST];
    for format in [Format::Cri, Format::Json] {
        let log = encoded(format, &[(Stream::Stdout, &worst)]);
        assert!(
            log.split_inclusive(|&byte| byte == b'\n').all(|line| line.len() <= LONGEST_ON_DISK)
        );
        for max_size in [1, SMALLEST, 200, 5000, 1 << 40] {
            let mut encoder = Encoder::for_files_of(format, max_size);
            let mut log = Vec::new();
            encoder.encode(Timestamp::default(), Stream::Stdout, &worst, &mut log);
            let fits = |line: &[u8]| line.len() as u64 <= max_size.max(SMALLEST);
            assert!(log.split_inclusive(|&byte| byte == b'\n').all(fits), "{format:?} {max_size}");
        }
    }
}

#[test]
fn the_same_records_are_made_again_within_the_room_they_took() {
    let mut random = Rng::with_seed(0x9e37_79b9_7f4a_7c15);
    for _ in 0..60 {
        for format in [Format::Cri, Format::Json] {
            let (time, stream, bytes) =
                (Timestamp::now(), any_stream(&mut random), any_bytes(&mut random));
            let mut before = Encoder::new(format);
            before.encode(time, stream, &any_bytes(&mut random), &mut Vec::new());
            let mut place = vec![0; random.usize(..4000)];
            let (taken, size) = { before }.encode_into(&mut place, time, stream, &bytes);
            let log = &place[..size];
            assert!(taken == bytes.len() || size == 0 || log.ends_with(b"\n"));
            // As after a write that was cut short somewhere.
            let cut = random.usize(..=size);
            let whole = log[..cut].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            let mut again = vec![0; whole];
            let mut after = before;
            let (done, size) = after.encode_into(&mut again, time, stream, &bytes);
            assert!(size == whole && again == log[..whole]);
            after.encode(time, stream, &bytes[done..], &mut again);
            let mut all = Vec::new();
            before.encode(time, stream, &bytes, &mut all);
            assert!(again == all);
        }
    }
}

#[test]
fn escapes_are_those_of_docker() {
    // The expectations of moby's own tests of its encoder.
    for (text, expected) in [
        (b"\"A log line with \\\\\"".as_slice(), r#"\"A log line with \\\\\""#),
        (b"A log line with \r", r"A log line with \r"),
        (b"A log line with & < >", r"A log line with \u0026 \u003c \u003e"),
        ("utf8 : 🚀 ψ ω β".as_bytes(), "utf8 : 🚀 ψ ω β"),
        ("\u{2028} \u{2029}".as_bytes(), r"\u2028 \u2029"),
        (b"\xaf", r"\ufffd"),
        (b"\x7f", "\x7f"),
        (b"\t\x1b\0", r"\u0009\u001b\u0000"),
    ] {
        let log = encoded(Format::Json, &[(Stream::Stderr, [text, b"\n"].concat())]);
        let expected = format!(
            "{{\"log\":\"{expected}\\n\",\"stream\":\"stderr\",\"time\":\"1970-01-01T00:00:00.000000000Z\"}}\n"
        );
        assert_eq!(str::from_utf8(&log).unwrap(), expected);
    }
}

#[test]
fn a_damaged_log_is_read_to_its_end() {
    let mut random = Rng::with_seed(0x9e37_79b9_7f4a_7c15);
    for format in [Format::Cri, Format::Json] {
        let chunks: Vec<_> =
            (0..9).map(|_| (any_stream(&mut random), any_text(&mut random))).collect();
        let log = encoded(format, &chunks);
        for _ in 0..300 {
            let mut damaged = log.clone();
            for _ in 0..random.usize(..20) {
                let at = random.usize(..damaged.len());
                match random.u8(..3) {
                    0 => damaged[at] = random.u8(..),
                    1 if damaged.len() > 1 => _ = damaged.remove(at),
                    _ => damaged.truncate(at + 1),
                }
            }
            let (_, rest) = decoded(format, &damaged);
            assert!(!rest.contains(&b'\n'));
            sniff(&damaged);
            End::default().add_before(&damaged);
        }
    }
}
