//! The formats against what others write and read.

use super::*;

type Told<B> = (Option<u64>, Option<Stream>, B);

/// All whole records, and what is left behind them.
fn decoded(format: Format, mut bytes: &[u8]) -> (Vec<Told<Vec<u8>>>, &[u8]) {
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
fn assert_decodes(format: Format, log: &[u8], expected: &[Told<&[u8]>]) {
    let (records, rest) = decoded(format, log);
    let records: Vec<Told<&[u8]>> =
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
fn lines_that_are_no_records_are_given_as_they_are() {
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
fn the_first_line_tells_the_format() {
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
