//! Tables for [`super`].

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn chunk(offset: u64, data: &[u8], last: bool) -> LogChunk {
    let data = heapless::Vec::from_slice(data).unwrap();
    LogChunk {
        session: 1,
        app: name("web"),
        offset,
        seen_at_ms: 0,
        last,
        data,
    }
}

fn drain(receiver: &mut mpsc::Receiver<LogEvent>) -> String {
    let mut text = String::new();
    while let Ok(event) = receiver.try_recv() {
        text += &match event {
            LogEvent::Data { data, .. } => String::from_utf8(decode(&data).unwrap()).unwrap(),
            LogEvent::Gap { bytes } => format!("<gap {bytes}>"),
            LogEvent::Note { text } => format!("<{text}>"),
            LogEvent::End { error } => format!("<end {error:?}>"),
        };
    }
    text
}

#[test]
fn chunks_are_merged_without_repeats_and_gaps_are_told() {
    let table: [(&[(u64, usize)], &str); 6] = [
        (&[(0, 3), (3, 2)], "N0,0 N0,0"),
        (&[(10, 3), (13, 2)], "N0,0 N0,0"),
        (&[(0, 3), (5, 2)], "N0,0 N0,2"),
        (&[(0, 9), (4, 3), (4, 7)], "N0,0 K N5,0"),
        (&[(0, 9), (0, 4), (4, 1)], "N0,0 R N0,0"),
        (&[(u64::MAX, 5), (u64::MAX - 3, 2)], "N0,0 K"),
    ];
    for (chunks, expected) in table {
        let mut merge = Merge::default();
        let words: Vec<String> = chunks
            .iter()
            .map(|(offset, length)| match merge.take(*offset, *length) {
                Merged::Known => "K".into(),
                Merged::Restarted => "R".into(),
                Merged::New { skip, gap } => format!("N{skip},{gap}"),
            })
            .collect();
        assert_eq!(words.join(" "), expected, "{chunks:?}");
    }
}

#[test]
fn what_is_asked_again_never_begins_at_the_first_byte() {
    for next in [1, 2, 100, OVERLAP_BYTES_MAX, OVERLAP_BYTES_MAX * 3] {
        let merge = Merge { next: Some(next) };
        assert!(u64::from(merge.overlap()) < next);
    }
}

#[test]
fn a_second_reader_gets_what_is_held_and_asks_the_device_nothing() {
    let (mut streams, now) = (Streams::default(), Instant::now());
    let (pi, web) = (name("pi"), name("web"));
    let (mut first, ask) = streams.read(&pi, &web, 100, true, now).unwrap();
    assert!(ask.is_some());
    streams.chunk(&pi, &chunk(0, b"abc", false), now);
    let (mut second, ask) = streams.read(&pi, &web, 100, true, now).unwrap();
    assert_eq!(ask, None);
    streams.chunk(&pi, &chunk(3, b"de", false), now);
    assert_eq!(drain(&mut first), "abcde");
    assert_eq!(drain(&mut second), "abcde");
    let (mut once, _) = streams.read(&pi, &web, 2, false, now).unwrap();
    assert_eq!(drain(&mut once), "de<end None>");
}

#[test]
fn a_new_session_is_asked_again_with_an_overlap() {
    let (mut streams, now) = (Streams::default(), Instant::now());
    let (pi, web) = (name("pi"), name("web"));
    let (mut reader, _) = streams.read(&pi, &web, 100, true, now).unwrap();
    streams.chunk(&pi, &chunk(0, b"abcdef", false), now);
    let asks = streams.session_changed(&pi, now);
    let CommandAction::StreamLog { tail_bytes, .. } = &asks[0].action else {
        panic!("{asks:?}")
    };
    assert_eq!(*tail_bytes, 5);
    streams.chunk(&pi, &chunk(3, b"defg", false), now);
    assert_eq!(drain(&mut reader), "abcdef<device 'pi' is connected again>g");
    assert!(streams.session_changed(&name("other"), now).is_empty());
}

#[test]
fn a_rejected_command_ends_the_stream_with_its_reason() {
    let (mut streams, now) = (Streams::default(), Instant::now());
    let (pi, web) = (name("pi"), name("web"));
    let (mut reader, _) = streams.read(&pi, &web, 100, true, now).unwrap();
    streams.asked(&pi, &web, 7);
    streams.failed(&pi, &web, 6, "an older one");
    streams.failed(&pi, &web, 7, "no such app");
    assert_eq!(drain(&mut reader), "<end Some(\"no such app\")>");
}

#[test]
fn a_stream_without_readers_is_stopped_on_the_device() {
    let (mut streams, now) = (Streams::default(), Instant::now());
    let (pi, web) = (name("pi"), name("web"));
    let (reader, _) = streams.read(&pi, &web, 100, true, now).unwrap();
    assert!(streams.tick(now).is_empty());
    assert_eq!(streams.tick(now + RENEW_AFTER).len(), 1, "the lease is renewed");
    drop(reader);
    let asks = streams.tick(now);
    assert_eq!(asks[0].action, CommandAction::StopLog { app: web });
    assert!(streams.0.is_empty());
}

#[test]
fn a_slow_reader_sees_a_gap_and_stops_nobody() {
    let (mut streams, now) = (Streams::default(), Instant::now());
    let (pi, web) = (name("pi"), name("web"));
    let (mut reader, _) = streams.read(&pi, &web, 100, true, now).unwrap();
    for n in 0..WAITING_MAX as u64 + 5 {
        streams.chunk(&pi, &chunk(n, b"x", false), now);
    }
    assert_eq!(drain(&mut reader), "x".repeat(WAITING_MAX));
    streams.chunk(&pi, &chunk(WAITING_MAX as u64 + 5, b"y", false), now);
    assert_eq!(drain(&mut reader), "<gap 5>y");
}

#[test]
fn output_that_stops_before_its_end_is_not_waited_for_for_ever() {
    let (mut streams, now) = (Streams::default(), Instant::now());
    let (pi, web) = (name("pi"), name("web"));
    let (mut reader, _) = streams.read(&pi, &web, 100, false, now).unwrap();
    streams.chunk(&pi, &chunk(0, b"abc", false), now);
    assert!(streams.tick(now + RENEW_AFTER).is_empty());
    let text = drain(&mut reader);
    assert!(
        text.starts_with("abc<end Some(") && text.contains("sends nothing more"),
        "{text}"
    );
}
