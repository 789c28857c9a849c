//! What is recorded is read as it was, and what an earlier vmon recorded too.

use super::*;

fn everything() -> Spec {
    Spec {
        command: Some(vec!["printf".into(), OsString::from_vec(vec![b'a', 0xff, b'\n'])]),
        directory: Some(OsString::from_vec(vec![b'/', 0xfe]).into()),
        tty: true,
        rootfs: Some(Rootfs::Overlayfs(vec!["/a:b".into(), "/c".into()])),
        log_dir: "/log".into(),
        log: LogOptions {
            retention: Retention {
                max_size: 7,
                max_files: 3,
                max_age: Some(Duration::from_millis(1_500)),
                rotate_every: Some(Duration::from_secs(60)),
                total_size: Some(1 << 40),
            },
            format: Format::Cri,
            index: false,
        },
        log_rotate_command: Some(OsString::from_vec(b"gzip '\xff'".to_vec())),
        log_rate: Some(LogRate {
            burst: 7,
            over: OverRate::Drop,
            ..LogRate::new(NonZeroU64::new(9).unwrap())
        }),
        on_log_error: OnLogError::Drop,
        forward: Forward::Drop,
        input: Input::Forward,
        consoles: vec![
            "serial=pty".parse().unwrap(),
            Console::fifo("out".parse().unwrap(), OsString::from_vec(vec![b'/', 0xff])),
        ],
        interactive: Some("out".parse().unwrap()),
        stop_signal: Signal::INT,
        stop_timeout: Duration::from_millis(2500),
        restart: Restart::OnFailure { max: Some(3) },
        max_duration: Some(Duration::from_secs(60)),
        idle_timeout: Some(Duration::from_millis(100)),
        leave_descendants: true,
        cgroup: Some("/sys/fs/cgroup/web".into()),
        options: json!({ "pid_file": "/run/web.pid" }),
        exact: true,
    }
}

#[test]
fn what_is_written_is_read_as_it_was() {
    let spec = everything();
    assert_eq!(Spec::parse(&spec.to_json().to_string()), Some(spec));
}

#[test]
fn a_log_directory_in_the_state_directory_is_recorded_relative_to_it() {
    let (a, b) = (StateDir::new("/a".into()), StateDir::new("/b".into()));
    let log_dir = |log_dir: &str, version: &str| {
        let spec = Spec { log_dir: log_dir.into(), ..everything() };
        let text = spec.to_record(&a).replace("\"version\":3", version);
        Spec::read(&text, &b).map(|spec| spec.log_dir.to_str().unwrap().to_owned())
    };
    assert_eq!(log_dir("/a/log", "\"version\":3").as_deref(), Some("/b/log"));
    assert_eq!(log_dir("/var/log", "\"version\":3").as_deref(), Some("/var/log"));
    // As an earlier vmon has recorded a host's.
    for version in ["\"version\":2", "\"version\":null"] {
        assert_eq!(log_dir("/a/log", version).as_deref(), Some("log"));
    }
    let spec = Spec { log_dir: "../x".into(), ..everything() };
    assert_eq!(Spec::read(&spec.to_json().to_string(), &b), None);
}

#[test]
fn a_replacement_character_that_was_asked_for_is_exact() {
    let command = Some(vec!["echo".into(), "\u{fffd}".into()]);
    let spec = Spec { command, ..everything() };
    assert_eq!(Spec::parse(&spec.to_json().to_string()), Some(spec));
}

#[test]
fn a_spec_of_an_earlier_vmon_is_read_and_tells_whether_it_is_exact() {
    let old = |word: &str| {
        json!({
            "command": ["echo", word], "directory": "/tmp", "tty": false,
            "rootfs": "overlayfs:/a:/b", "log_dir": "/log", "log_max_size": 9,
            "log_max_files": 2, "on_log_error": "pause", "forward": "block",
            "stdin": "null", "stop_signal": "signal 40", "stop_timeout_seconds": 1.5,
        })
        .to_string()
    };
    let spec = Spec::parse(&old("hello")).unwrap();
    assert!(spec.exact);
    assert_eq!(spec.rootfs, Some(Rootfs::Overlayfs(vec!["/a".into(), "/b".into()])));
    assert_eq!(spec.stop_signal.number(), 40);
    assert_eq!(spec.stop_timeout, Duration::from_millis(1500));
    assert_eq!((spec.log.retention.max_size, spec.log.retention.max_files), (9, 2));
    assert_eq!((spec.restart, &spec.options), (Restart::No, &Value::Null));
    assert!(!Spec::parse(&old("\u{fffd}")).unwrap().exact);
}

#[test]
fn a_real_time_signal_and_a_timeout_without_end_are_read_as_they_were() {
    let stop_signal = "SIGRTMIN+3".parse().unwrap_or(Signal::HUP);
    let spec = Spec { stop_signal, stop_timeout: Duration::MAX, ..everything() };
    assert_eq!(Spec::parse(&spec.to_json().to_string()), Some(spec));
}
