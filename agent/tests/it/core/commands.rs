//! Commands: once each, answered each time; logs on request.

use punnet_agent::core::*;
use punnet_protocol::topics::Purpose;
use punnet_protocol::*;

use super::Bench;
use crate::fleet::{Fleet, app, name};

fn running() -> (Bench, u64) {
    let mut bench = Bench::connected();
    let session = bench.session();
    let image = bench.fleet.image(1, &[10]);
    bench.desire(1, &[app("web", &image, 1), app("db", &image, 1)]);
    bench.pass(10_000);
    assert!(bench.report().converged);
    bench.take::<Reply>(Purpose::Reply);
    (bench, session)
}

fn command(bench: &mut Bench, session: u64, id: u64, action: CommandAction) -> Vec<Reply> {
    let payload = bench.fleet.command(session, id, action);
    bench.message(Purpose::Command, payload);
    bench.take(Purpose::Reply)
}

fn stream(app: &str, tail_bytes: u32, follow_ms: u32) -> CommandAction {
    CommandAction::StreamLog {
        app: name(app),
        tail_bytes,
        follow_ms,
    }
}

#[test]
fn a_command_that_comes_again_is_answered_again_and_not_done_again() {
    let (mut bench, session) = running();
    let before = bench.device.pid("web");
    let restart = || CommandAction::Restart { app: name("web") };
    let first = command(&mut bench, session, 1, restart());
    bench.pass(1000);
    let after = bench.device.pid("web");
    assert_ne!(before, after);
    let again = command(&mut bench, session, 1, restart());
    bench.pass(10_000);
    assert_eq!(first, again);
    assert_eq!(
        (first[0].to, &first[0].outcome),
        (ReplyTo::Command { id: 1 }, &Outcome::Accepted)
    );
    assert_eq!(bench.device.pid("web"), after);
}

#[test]
fn commands_that_are_not_for_now_and_here_are_refused_with_their_reason() {
    let (mut bench, session) = running();
    let pid = bench.device.pid("web");
    let restart = || CommandAction::Restart { app: name("web") };
    assert!(matches!(
        command(&mut bench, session, 9, CommandAction::Report)[0].outcome,
        Outcome::Accepted
    ));
    let untrusted = ReplyTo::Packet {
        purpose: Purpose::Command,
    };
    let mut unsigned = bench.fleet.command(session, 10, restart());
    unsigned[20] ^= 1;
    let other_session = bench.fleet.command(session - 1, 10, restart());
    let old_id = bench.fleet.command(session, 8, restart());
    let (fleet, device, action) = (name("home"), name("bath"), restart());
    let other_device = bench.fleet.signed(&Command {
        fleet,
        device,
        session,
        id: 10,
        action,
    });
    let unknown = bench
        .fleet
        .command(session, 10, CommandAction::Restart { app: name("nothing") });
    let no_log = bench
        .fleet
        .command(session, 11, CommandAction::StopLog { app: name("web") });
    let to = |id| ReplyTo::Command { id };
    for (case, payload, to, reason) in [
        ("damaged", unsigned, untrusted, Rejection::Malformed),
        ("garbage", vec![7; 300], untrusted, Rejection::Version),
        ("another session", other_session, to(10), Rejection::Stale),
        ("an id long past", old_id, to(8), Rejection::Stale),
        ("another device", other_device, to(10), Rejection::NotForUs),
        ("no such app", unknown, to(10), Rejection::Unknown),
        ("no such stream", no_log, to(11), Rejection::Unknown),
    ] {
        bench.message(Purpose::Command, payload);
        let (found_to, found, _) = bench.refusal();
        assert_eq!((found_to, found), (to, reason), "{case}");
    }
    bench.pass(10_000);
    assert_eq!(bench.device.pid("web"), pid);
}

#[test]
fn a_command_of_an_earlier_session_is_refused_after_a_reconnection() {
    let (mut bench, session) = running();
    bench.event(Event::Disconnected(LinkError::Other("lost".into())));
    bench.connect();
    let replies = command(
        &mut bench,
        session,
        1,
        CommandAction::Restart { app: name("web") },
    );
    assert!(matches!(
        replies[0].outcome,
        Outcome::Rejected {
            reason: Rejection::Stale,
            ..
        }
    ));
}

#[test]
fn a_command_signed_by_another_fleet_is_refused() {
    let (mut bench, session) = running();
    let mut stranger = Fleet::new();
    std::mem::swap(&mut bench.fleet, &mut stranger);
    let mut payload = stranger.command(session, 1, CommandAction::Restart { app: name("web") });
    std::mem::swap(&mut bench.fleet, &mut stranger);
    // The same key in this test: so the signature is replaced, the checksum put right.
    payload[9..73].fill(3);
    let checksum = crc32fast::hash(&payload[9..]);
    payload[5..9].copy_from_slice(&checksum.to_le_bytes());
    bench.message(Purpose::Command, payload);
    assert_eq!(bench.refusal().1, Rejection::Signature);
}

#[test]
fn the_report_command_reports_what_has_not_changed() {
    let (mut bench, session) = running();
    bench.pass(60_000);
    assert!(
        bench.take::<Reported>(Purpose::Reported).is_empty(),
        "nothing changed, nothing is sent"
    );
    command(&mut bench, session, 1, CommandAction::Report);
    let reports: Vec<Reported> = bench.take(Purpose::Reported);
    assert_eq!(reports.len(), 1);
}

fn chunks(bench: &mut Bench) -> (String, Vec<LogChunk>) {
    let chunks: Vec<LogChunk> = bench.take(Purpose::Log);
    let text = chunks
        .iter()
        .flat_map(|chunk| chunk.data.iter().map(|byte| *byte as char))
        .collect();
    (text, chunks)
}

#[test]
fn a_log_is_sent_from_its_tail_and_followed_to_its_end() {
    let (mut bench, session) = running();
    bench
        .device
        .logs
        .insert(name("web"), (1, b"one two three".to_vec()));
    command(&mut bench, session, 1, stream("web", 5, 10_000));
    assert_eq!(chunks(&mut bench).0, "three");
    bench.pass(1000);
    bench
        .device
        .logs
        .get_mut(&name("web"))
        .unwrap()
        .1
        .extend(b" four");
    bench.event(Event::LogGrew { app: name("web") });
    let (text, followed) = chunks(&mut bench);
    assert_eq!(
        (text.as_str(), followed[0].offset, followed[0].last),
        (" four", 13, false)
    );
    bench.pass(10_000);
    let (text, end) = chunks(&mut bench);
    assert_eq!(
        (text.as_str(), end.len(), end[0].last, end[0].offset),
        ("", 1, true, 18)
    );
}

#[test]
fn a_long_log_comes_in_order_and_whole() {
    let (mut bench, session) = running();
    let text: String = (0..5000).map(|n| format!("{n}\n")).collect();
    bench
        .device
        .logs
        .insert(name("web"), (1, text.clone().into_bytes()));
    command(&mut bench, session, 1, stream("web", u32::MAX, 0));
    let (sent, chunks) = chunks(&mut bench);
    assert_eq!(sent, text);
    assert_eq!(chunks.iter().filter(|chunk| chunk.last).count(), 1);
    assert!(chunks.last().unwrap().last);
}

#[test]
fn a_log_that_is_not_there_yet_is_waited_for() {
    let (mut bench, session) = running();
    command(&mut bench, session, 1, stream("web", 100, 10_000));
    bench.pass(2000);
    assert!(chunks(&mut bench).1.is_empty());
    bench.device.logs.insert(name("web"), (1, b"hello".to_vec()));
    bench.pass(2000);
    assert_eq!(chunks(&mut bench).0, "hello");
    command(&mut bench, session, 2, stream("db", 100, 3000));
    bench.pass(5000);
    assert!(chunks(&mut bench).1.last().unwrap().last, "it ends all the same");
}

#[test]
fn the_log_of_a_new_container_is_followed_from_its_beginning() {
    let (mut bench, session) = running();
    bench
        .device
        .logs
        .insert(name("web"), (1, b"a long old log".to_vec()));
    command(&mut bench, session, 1, stream("web", 100, 60_000));
    chunks(&mut bench);
    bench
        .device
        .logs
        .insert(name("web"), (2, b"a long new log, longer".to_vec()));
    bench.event(Event::LogGrew { app: name("web") });
    let (text, sent) = chunks(&mut bench);
    assert_eq!((text.as_str(), sent[0].offset), ("a long new log, longer", 0));
}

#[test]
fn streams_are_bounded_and_can_be_stopped() {
    let mut bench = Bench::connected();
    let session = bench.session();
    let image = bench.fleet.image(1, &[10]);
    let apps: Vec<_> = (0..5).map(|n| app(&format!("app{n}"), &image, 1)).collect();
    bench.desire(1, &apps);
    bench.pass(10_000);
    bench.take::<Reply>(Purpose::Reply);
    for n in 0..4 {
        let replies = command(&mut bench, session, n + 1, stream(&format!("app{n}"), 0, 60_000));
        assert_eq!(replies[0].outcome, Outcome::Accepted);
    }
    let replies = command(&mut bench, session, 5, stream("app4", 0, 60_000));
    assert!(matches!(
        replies[0].outcome,
        Outcome::Rejected {
            reason: Rejection::Unsupported,
            ..
        }
    ));
    let replies = command(
        &mut bench,
        session,
        6,
        CommandAction::StopLog { app: name("app0") },
    );
    assert_eq!(replies[0].outcome, Outcome::Accepted);
    assert!(chunks(&mut bench).1.last().unwrap().last);
    let replies = command(&mut bench, session, 7, stream("app4", 0, 60_000));
    assert_eq!(replies[0].outcome, Outcome::Accepted);
}
