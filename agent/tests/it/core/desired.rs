//! Desired states: accepted when signed, new and durable; refused with a reason otherwise, and nothing is touched.

use punnet_protocol::topics::Purpose;
use punnet_protocol::*;

use super::Bench;
use crate::fleet::{Fleet, app, name};

/// A device that runs generation 5.
fn running() -> (Bench, App) {
    let mut bench = Bench::connected();
    let image = bench.fleet.image(1, &[50_000]);
    let web = app("web", &image, 1);
    bench.desire(5, std::slice::from_ref(&web));
    bench.pass(10_000);
    assert!(bench.report().converged && bench.device.pid("web") > 0);
    bench.take::<Reply>(Purpose::Reply);
    (bench, web)
}

fn resealed(body: &[u8]) -> Vec<u8> {
    let mut payload = vec![SCHEMA_VERSION];
    payload.extend((body.len() as u32).to_le_bytes());
    payload.extend(crc32fast::hash(body).to_le_bytes());
    payload.extend(body);
    payload
}

#[test]
fn a_desired_state_is_acknowledged_and_accepted_once_it_is_durable() {
    let mut bench = Bench::connected();
    let image = bench.fleet.image(1, &[10]);
    let packet = bench.desire(1, &[app("web", &image, 1)]);
    assert!(bench.device.slots.iter().flatten().next().is_some());
    assert!(bench.acknowledged.contains(&packet));
    let replies: Vec<Reply> = bench.take(Purpose::Reply);
    assert_eq!(
        (replies[0].to, &replies[0].outcome),
        (ReplyTo::Desired { generation: 1 }, &Outcome::Accepted)
    );
    bench.pass(10_000);
    let report = bench.report();
    assert!(report.converged && report.generation == 1);
    assert_eq!(
        report.apps[0].state,
        AppState::Running {
            pid: bench.device.pid("web")
        }
    );
}

#[test]
fn on_a_full_disk_it_is_refused_once_and_taken_when_there_is_room() {
    let mut bench = Bench::connected();
    let image = bench.fleet.image(1, &[10]);
    bench.device.full = Some("no space left on device".into());
    let packet = bench.desire(1, &[app("web", &image, 1)]);
    let (to, reason, detail) = bench.refusal();
    assert_eq!(
        (to, reason),
        (ReplyTo::Desired { generation: 1 }, Rejection::Storage)
    );
    assert!(detail.contains("no space left"));
    bench.pass(120_000);
    assert!(bench.take::<Reply>(Purpose::Reply).is_empty(), "it is told once");
    assert!(!bench.acknowledged.contains(&packet) && bench.device.containers.is_empty());
    bench.device.full = None;
    bench.pass(120_000);
    assert!(bench.acknowledged.contains(&packet) && bench.device.pid("web") > 0);
}

#[test]
fn whatever_is_not_ours_and_new_is_refused_with_its_reason_and_nothing_is_touched() {
    let (mut bench, web) = running();
    let image = bench.fleet.image(2, &[10]);
    let other = app("other", &image, 1);
    let untrusted = ReplyTo::Packet {
        purpose: Purpose::Desired,
    };
    let good = bench.fleet.desired(6, std::slice::from_ref(&other));
    let altered = |at: usize| {
        let mut body = good[9..].to_vec();
        body[at] ^= 1;
        resealed(&body)
    };
    let mut another_version = good.clone();
    another_version[0] = 2;
    let mut env = other.clone();
    env.env = Strings::new(["no equals sign"]).unwrap();
    let mut mount = other.clone();
    let (source, target) = (clipped("relative"), clipped("/x"));
    mount
        .mounts
        .push(Mount {
            source,
            target,
            read_only: true,
        })
        .unwrap();
    let mut manifest = other.clone();
    manifest.image.manifest_bytes = 100_000_000;
    let fleet = &bench.fleet;
    let to = |generation| ReplyTo::Desired { generation };
    let with_trailing_field = {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct Newer(Desired, u8);
        impl signed::Signed for Newer {
            const DOMAIN: &'static [u8] = <Desired as signed::Signed>::DOMAIN;
        }
        let apps = heapless::Vec::new();
        let (fleet_name, device) = (name("home"), name("kitchen"));
        fleet.signed(&Newer(
            Desired {
                fleet: fleet_name,
                device,
                generation: 6,
                signed_at_s: 1,
                apps,
            },
            1,
        ))
    };
    let as_command = {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct AsCommand(Desired);
        impl signed::Signed for AsCommand {
            const DOMAIN: &'static [u8] = <Command as signed::Signed>::DOMAIN;
        }
        let apps = heapless::Vec::new();
        let (fleet_name, device) = (name("home"), name("kitchen"));
        fleet.signed(&AsCommand(Desired {
            fleet: fleet_name,
            device,
            generation: 6,
            signed_at_s: 1,
            apps,
        }))
    };
    let two = [other.clone(), other.clone()];
    let cases = [
        ("garbage", b"garbage".to_vec(), untrusted, Rejection::Malformed),
        (
            "cut short",
            good[..good.len() - 1].to_vec(),
            untrusted,
            Rejection::Malformed,
        ),
        ("another version", another_version, untrusted, Rejection::Version),
        (
            "too large",
            vec![1; PAYLOAD_BYTES_MAX + 1],
            untrusted,
            Rejection::TooLarge,
        ),
        (
            "unsigned",
            resealed(&[vec![0; 64], good[73..].to_vec()].concat()),
            untrusted,
            Rejection::Signature,
        ),
        ("signature altered", altered(3), untrusted, Rejection::Signature),
        ("content altered", altered(80), untrusted, Rejection::Signature),
        ("signed as a command", as_command, untrusted, Rejection::Signature),
        (
            "unknown trailing field",
            with_trailing_field,
            untrusted,
            Rejection::Malformed,
        ),
        (
            "another device",
            fleet.desired_for("home", "bath", 6, &[]),
            to(6),
            Rejection::NotForUs,
        ),
        (
            "another fleet",
            fleet.desired_for("work", "kitchen", 6, &[]),
            to(6),
            Rejection::NotForUs,
        ),
        (
            "older",
            fleet.desired(4, std::slice::from_ref(&other)),
            to(4),
            Rejection::Stale,
        ),
        (
            "same generation, other content",
            fleet.desired(5, &[]),
            to(5),
            Rejection::Conflict,
        ),
        ("generation 0", fleet.desired(0, &[]), to(0), Rejection::Stale),
        (
            "one name twice",
            fleet.desired(6, &two),
            to(6),
            Rejection::Unsupported,
        ),
        (
            "environment",
            fleet.desired(6, &[env]),
            to(6),
            Rejection::Unsupported,
        ),
        (
            "relative mount",
            fleet.desired(6, &[mount]),
            to(6),
            Rejection::Unsupported,
        ),
        (
            "huge manifest",
            fleet.desired(6, &[manifest]),
            to(6),
            Rejection::Unsupported,
        ),
    ];
    let (pid, slots) = (bench.device.pid("web"), bench.device.slots.clone());
    for (case, payload, to, reason) in cases {
        bench.device.jobs.clear();
        let packet = bench.message(Purpose::Desired, payload);
        let (found_to, found, detail) = bench.refusal();
        assert_eq!((found_to, found), (to, reason), "{case}");
        assert!(!detail.is_empty(), "{case}");
        assert!(
            bench.acknowledged.contains(&packet),
            "{case}: or it would come again for ever"
        );
        bench.pass(10_000);
        assert!(bench.device.jobs.is_empty(), "{case}: {:?}", bench.device.jobs);
    }
    assert_eq!((bench.device.pid("web"), &bench.device.slots), (pid, &slots));
    bench.desire(6, &[web]);
    assert_eq!(bench.core.generation(), 6, "the next good one is taken");
}

#[test]
fn the_same_again_is_acknowledged_without_a_word() {
    let (mut bench, web) = running();
    bench.device.jobs.clear();
    bench.sent.clear();
    let packet = bench.desire(5, &[web]);
    assert!(bench.acknowledged.contains(&packet));
    bench.pass(60_000);
    assert!(
        bench.device.jobs.is_empty() && bench.sent.is_empty(),
        "{:?}",
        bench.sent
    );
}

#[test]
fn a_generation_that_a_newer_one_overtakes_is_superseded() {
    let mut bench = Bench::connected();
    bench.device.full = Some("full".into());
    bench.desire(1, &[]);
    bench.desire(2, &[]);
    let replies: Vec<Reply> = bench.take(Purpose::Reply);
    assert_eq!(replies.last().unwrap().to, ReplyTo::Desired { generation: 1 });
    assert_eq!(replies.last().unwrap().outcome, Outcome::Superseded { by: 2 });
}

#[test]
fn a_flood_of_garbage_is_not_answered_by_a_flood() {
    let (mut bench, _) = running();
    for n in 0..3000_u32 {
        bench.message(Purpose::TO_DEVICE[n as usize % 3], n.to_le_bytes().to_vec());
    }
    let replies: Vec<Reply> = bench.take(Purpose::Reply);
    assert!(!replies.is_empty() && replies.len() <= 8, "{}", replies.len());
}

#[test]
fn an_older_generation_is_refused_after_a_restart_too() {
    let (mut bench, web) = running();
    bench.restart();
    bench.connect();
    bench.take::<Reply>(Purpose::Reply);
    bench.desire(4, &[web]);
    assert_eq!(bench.refusal().1, Rejection::Stale);
}

#[test]
fn what_somebody_wrote_to_the_flash_is_not_run() {
    let (mut bench, _) = running();
    let stranger = Fleet::new();
    let image = bench.fleet.image(9, &[10]);
    // A record whose checksum is right, with a payload that the fleet has not signed.
    let payload = stranger.desired_for("work", "kitchen", 7, &[app("evil", &image, 1)]);
    let record = (
        7_u64,
        0_u64,
        payload,
        Vec::<u8>::new(),
        Vec::<Digest>::new(),
        Vec::<Digest>::new(),
        Vec::<(Digest, i32)>::new(),
    );
    let body = postcard::to_allocvec(&record).unwrap();
    let mut file = b"PNJ1".to_vec();
    file.extend(u64::MAX.to_le_bytes());
    file.extend((body.len() as u32).to_le_bytes());
    let mut checked = file[4..].to_vec();
    checked.extend(&body);
    file.extend(crc32fast::hash(&checked).to_le_bytes());
    file.extend(body);
    bench.device.slots = [Some(file), None];
    bench.device.containers.clear();
    bench.device.jobs.clear();
    bench.restart();
    bench.pass(60_000);
    assert!(bench.device.containers.is_empty());
    assert!(
        bench
            .logged
            .iter()
            .any(|line| line.contains("not signed for this device"))
    );
}

#[test]
fn an_empty_desired_state_stops_and_removes_everything() {
    let (mut bench, _) = running();
    bench.desire(6, &[]);
    bench.pass(10_000);
    assert!(bench.device.containers.is_empty());
    let report = bench.report();
    assert!(report.converged && report.apps.is_empty() && report.generation == 6);
}
