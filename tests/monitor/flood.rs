//! Floods: a pipe that is read less often while it is flooded, the memory that this takes and gives
//! back, and that the bytes are unchanged.

/// The reactor's part, through its public interface.
mod loops {
    use std::cell::RefCell;
    use std::convert::Infallible;
    use std::io::{self, PipeReader, Read, Write};
    use std::rc::Rc;
    use std::time::Duration;

    use vmon::reactor::{Context, Handler, Interest, Reactor, Ready, SourceId};

    /// Collects what a pipe gives, until its end.
    #[derive(Default)]
    struct Collect {
        source: Option<(PipeReader, SourceId)>,
        bytes: Vec<u8>,
        ended: bool,
    }

    impl Handler for Collect {
        type Source = ();
        type Timer = ();
        type Event = Infallible;

        fn start(&mut self, _: &mut Context<'_, (), ()>) {}

        fn ready(&mut self, (): (), _: Ready, cx: &mut Context<'_, (), ()>) {
            let Some((reader, source)) = &mut self.source else { return };
            match reader.read(cx.scratch).unwrap() {
                0 => {
                    self.ended = true;
                    cx.sources.deregister(*source);
                }
                count => {
                    self.bytes.extend_from_slice(&cx.scratch[..count]);
                    cx.sources.short_read(*source);
                }
            }
        }

        fn timer(&mut self, (): (), _: &mut Context<'_, (), ()>) {}

        fn is_done(&self) -> bool {
            self.ended
        }
    }

    impl Collect {
        fn watch(&mut self, reader: PipeReader, cx: &mut Context<'_, (), ()>) -> SourceId {
            let source = cx.sources.register(&reader, Interest::READ, ()).unwrap();
            self.source = Some((reader, source));
            source
        }
    }

    #[test]
    fn a_disarmed_source_calls_no_handler_and_is_reported_when_it_is_armed() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut reactor = Reactor::new().unwrap();
        let id = reactor.add(Collect::default());
        let source = reactor.call(id, |collect, cx| collect.watch(reader, cx)).unwrap();
        reactor.call(id, |_, cx| cx.sources.disarm(source));
        writer.write_all(b"first").unwrap();
        reactor.poll_once(Some(Duration::ZERO)).unwrap();
        assert_eq!(reactor.get(id).unwrap().bytes, b"");
        reactor.call(id, |_, cx| cx.sources.arm(source)).unwrap().unwrap();
        reactor.poll_once(None).unwrap();
        assert_eq!(reactor.get(id).unwrap().bytes, b"first");
        writer.write_all(b", second").unwrap();
        reactor.poll_once(None).unwrap();
        assert_eq!(reactor.get(id).unwrap().bytes, b"first, second");
    }

    #[test]
    fn the_end_of_a_disarmed_source_is_reported_when_it_is_armed() {
        let (reader, writer) = io::pipe().unwrap();
        let mut reactor = Reactor::new().unwrap();
        let id = reactor.add(Collect::default());
        let source = reactor.call(id, |collect, cx| collect.watch(reader, cx)).unwrap();
        reactor.call(id, |_, cx| cx.sources.disarm(source));
        drop(writer);
        reactor.poll_once(Some(Duration::ZERO)).unwrap();
        assert!(!reactor.get(id).unwrap().ended);
        reactor.call(id, |_, cx| cx.sources.arm(source)).unwrap().unwrap();
        reactor.run().unwrap();
        assert!(reactor.get(id).unwrap().ended);
    }

    #[test]
    fn a_source_that_is_disarmed_can_be_deregistered_and_its_slot_used_again() {
        let (reader, _writer) = io::pipe().unwrap();
        let mut reactor = Reactor::new().unwrap();
        let id = reactor.add(Collect::default());
        let source = reactor.call(id, |collect, cx| collect.watch(reader, cx)).unwrap();
        reactor.call(id, |_, cx| cx.sources.disarm(source));
        reactor.call(id, |_, cx| cx.sources.deregister(source));
        let (reader, mut writer) = io::pipe().unwrap();
        reactor.call(id, |collect, cx| collect.watch(reader, cx));
        // The old id names no source now, and its successor is not disarmed.
        reactor.call(id, |_, cx| cx.sources.disarm(source));
        writer.write_all(b"bytes").unwrap();
        reactor.poll_once(None).unwrap();
        assert_eq!(reactor.get(id).unwrap().bytes, b"bytes");
    }

    /// Takes a byte a call of a pipe that always has more, and notes each call in the list of all.
    struct Nibble {
        name: char,
        calls: Rc<RefCell<Vec<(char, usize)>>>,
        source: Option<(PipeReader, SourceId)>,
    }

    impl Handler for Nibble {
        type Source = ();
        type Timer = ();
        type Event = Infallible;

        fn start(&mut self, _: &mut Context<'_, (), ()>) {}

        fn ready(&mut self, (): (), _: Ready, cx: &mut Context<'_, (), ()>) {
            self.calls.borrow_mut().push((self.name, cx.scratch.len()));
            let Some((reader, _)) = &mut self.source else { return };
            assert_eq!(reader.read(&mut cx.scratch[..1]).unwrap(), 1);
        }

        fn timer(&mut self, (): (), _: &mut Context<'_, (), ()>) {}

        fn is_done(&self) -> bool {
            false
        }
    }

    #[test]
    fn the_handler_that_waited_longest_is_called_first_and_busy_handlers_share_the_buffer() {
        let calls = Rc::new(RefCell::new(Vec::new()));
        let mut reactor = Reactor::new().unwrap();
        let mut add = |name| {
            let (reader, writer) = io::pipe().unwrap();
            let id = reactor.add(Nibble { name, calls: calls.clone(), source: None });
            reactor.call(id, |nibble, cx| {
                let source = cx.sources.register(&reader, Interest::READ, ()).unwrap();
                nibble.source = Some((reader, source));
            });
            writer
        };
        let mut flood = add('f');
        let mut keystroke = add('k');
        flood.write_all(&[0; 1000]).unwrap();
        for _ in 0..10 {
            reactor.poll_once(None).unwrap();
        }
        let whole = calls.borrow()[0].1;
        assert_eq!(calls.take(), vec![('f', whole); 10]);
        keystroke.write_all(&[0; 1000]).unwrap();
        for _ in 0..3 {
            reactor.poll_once(None).unwrap();
        }
        let calls = calls.take();
        let names: String = calls.iter().map(|(name, _)| name).collect();
        assert_eq!(names, "kfkfkf");
        assert!(calls[2..].iter().all(|(_, slice)| *slice < whole / 4), "{calls:?}");
    }

    #[test]
    fn the_budget_that_a_handler_takes_is_given_back_when_it_is_done_or_removed() {
        let mut reactor = Reactor::new().unwrap();
        let first = reactor.add(Collect::default());
        let second = reactor.add(Collect::default());
        let mut take = |id, bytes| reactor.call(id, |_, cx| cx.budget.take(bytes)).unwrap();
        let mut all = 0;
        while take(first, 1 << 20) {
            all += 1 << 20;
        }
        assert!(all > 0);
        assert!(!take(second, 1 << 20));
        reactor.call(first, |_, cx| cx.budget.give_back(1 << 20));
        assert!(reactor.call(second, |_, cx| cx.budget.take(1 << 20)).unwrap());
        reactor.remove(first);
        assert!(reactor.call(second, |_, cx| cx.budget.take(all - (1 << 20))).unwrap());
        // Nor when it is done.
        reactor.call(second, |collect, _| collect.ended = true);
        let third = reactor.add(Collect::default());
        assert!(reactor.call(third, |_, cx| cx.budget.take(all)).unwrap());
        reactor.remove(third);
        // What one never took it can't give.
        let third = reactor.add(Collect::default());
        reactor.call(third, |_, cx| cx.budget.give_back(all));
        assert!(!reactor.call(third, |_, cx| cx.budget.take(all + 1)).unwrap());
    }
}
