//! Images: asked for block by block, taken up where they were left, never believed.

use punnet_agent::core::*;
use punnet_protocol::topics::Purpose;
use punnet_protocol::*;

use super::Bench;
use crate::fleet::{app, encoded};

/// A device that has been told to run an image and gets no blocks unless the test sends them.
fn asking(layers: &[usize]) -> (Bench, ImageSource) {
    let mut bench = Bench::connected();
    bench.serves_blocks = false;
    let image = bench.fleet.image(1, layers);
    bench.desire(1, &[app("web", &image, 1)]);
    bench.take::<Reply>(Purpose::Reply);
    (bench, image)
}

fn wants(bench: &mut Bench) -> Vec<BlockWant> {
    bench.take(Purpose::Want)
}

fn answer(bench: &mut Bench, want: &BlockWant) {
    let payload = bench.fleet.block(want);
    bench.message(Purpose::Block, payload);
}

/// Answers until the image's layer is being asked for.
fn up_to_the_layer(bench: &mut Bench) -> Vec<BlockWant> {
    loop {
        let asked = wants(bench);
        if asked.iter().any(|want| want.length > 10_000) {
            return asked;
        }
        assert!(!asked.is_empty());
        asked.iter().for_each(|want| answer(bench, want));
    }
}

#[test]
fn a_few_blocks_are_asked_for_at_a_time() {
    let (mut bench, _) = asking(&[200_000]);
    let asked = up_to_the_layer(&mut bench);
    let offsets: Vec<_> = asked.iter().map(|want| want.offset).collect();
    assert_eq!(offsets, [0, 16_384, 32_768, 49_152]);
    answer(&mut bench, &asked[0]);
    assert_eq!(wants(&mut bench)[0].offset, 65_536);
}

#[test]
fn after_a_restart_it_goes_on_at_the_byte_where_it_was() {
    let (mut bench, _) = asking(&[200_000]);
    let asked = up_to_the_layer(&mut bench);
    answer(&mut bench, &asked[0]);
    answer(&mut bench, &asked[1]);
    // A power cut in the middle of a write.
    let layer = asked[0].blob;
    for blobs in bench.device.partials.values_mut() {
        if let Some((bytes, _)) = blobs.get_mut(&layer) {
            bytes.truncate(20_001);
        }
    }
    bench.restart();
    bench.sent.clear();
    bench.connect();
    let asked = wants(&mut bench);
    assert_eq!((asked[0].blob, asked[0].offset), (layer, 20_001));
    bench.serves_blocks = true;
    asked.iter().for_each(|want| answer(&mut bench, want));
    bench.pass(10_000);
    assert!(bench.device.pid("web") > 0);
}

#[test]
fn blocks_that_do_not_come_are_asked_for_again_and_people_are_told() {
    let (mut bench, _) = asking(&[200_000]);
    let asked = wants(&mut bench);
    bench.pass(4000);
    assert!(wants(&mut bench).is_empty());
    bench.pass(2000);
    assert_eq!(wants(&mut bench)[0], asked[0]);
    bench.pass(120_000);
    let report = bench.report();
    assert!(matches!(report.apps[0].state, AppState::Fetching { .. }));
    assert!(
        report.apps[0].detail.contains("does not answer"),
        "{:?}",
        report.apps[0].detail
    );
    let asked = wants(&mut bench).len();
    assert!(asked <= 8, "{asked} in two minutes: it asks less and less often");
}

#[test]
fn an_altered_layer_is_thrown_away_reported_and_fetched_again() {
    let (mut bench, _) = asking(&[20_000]);
    for want in up_to_the_layer(&mut bench) {
        let Ok(BlockAnswer::Data(mut block)) = envelope::decode(&bench.fleet.block(&want)) else {
            panic!()
        };
        block.data[5] ^= 1;
        bench.message(Purpose::Block, encoded(&BlockAnswer::Data(block)));
    }
    let (to, reason, detail) = bench.refusal();
    assert_eq!(
        (to, reason),
        (
            ReplyTo::Packet {
                purpose: Purpose::Block
            },
            Rejection::Malformed
        )
    );
    assert!(
        detail.contains("its content is not what its digest says"),
        "{detail}"
    );
    assert!(!bench.device.jobs.contains(&"Import".to_owned()));
    let report = bench.report();
    assert_eq!(report.apps[0].state, AppState::Failed);
    assert!(report.apps[0].detail.contains("its content"));
    bench.serves_blocks = true;
    bench.pass(60_000);
    assert!(bench.device.pid("web") > 0, "and then it works");
}

#[test]
fn a_cut_block_and_one_that_lies_about_the_size_are_refused() {
    for lie in [
        |block: &mut Block| block.data.truncate(5),
        |block: &mut Block| block.total_bytes += 1,
    ] {
        let (mut bench, _) = asking(&[20_000]);
        let want = up_to_the_layer(&mut bench).remove(0);
        let Ok(BlockAnswer::Data(mut block)) = envelope::decode(&bench.fleet.block(&want)) else {
            panic!()
        };
        lie(&mut block);
        bench.message(Purpose::Block, encoded(&BlockAnswer::Data(block)));
        assert_eq!(bench.refusal().1, Rejection::Malformed);
        bench.serves_blocks = true;
        bench.pass(60_000);
        assert!(bench.device.pid("web") > 0);
    }
}

#[test]
fn an_image_the_fleet_does_not_have_is_said_to_be_missing_and_does_not_hold_up_another() {
    let mut bench = Bench::connected();
    let missing = bench.fleet.image(1, &[10]);
    bench.fleet.blobs.remove(&missing.manifest);
    let image = bench.fleet.image(2, &[10]);
    bench.desire(1, &[app("a", &missing, 1), app("b", &image, 1)]);
    bench.pass(3000);
    let report = bench.report();
    assert_eq!(report.apps[0].state, AppState::Failed);
    assert!(report.apps[0].detail.contains("the fleet has no sha256:"));
    assert!(bench.device.pid("b") > 0);
}

#[test]
fn a_full_disk_is_reported_and_the_image_fetched_when_there_is_room() {
    let (mut bench, _) = asking(&[60_000]);
    let asked = up_to_the_layer(&mut bench);
    bench.device.full = Some("no space left on device".into());
    asked.iter().for_each(|want| answer(&mut bench, want));
    let report = bench.report();
    assert_eq!(report.apps[0].state, AppState::Failed);
    assert!(report.apps[0].detail.contains("no space left"));
    bench.device.full = None;
    bench.serves_blocks = true;
    bench.pass(60_000);
    assert!(bench.device.pid("web") > 0);
    assert!(bench.device.partials.is_empty(), "nothing half-done is left");
}

#[test]
fn an_image_nobody_wants_any_more_is_given_up_and_forgotten() {
    let (mut bench, _) = asking(&[200_000]);
    up_to_the_layer(&mut bench);
    bench.desire(2, &[]);
    bench.pass(1000);
    assert!(bench.device.partials.is_empty());
    assert!(wants(&mut bench).is_empty());
}

#[test]
fn an_image_in_the_store_is_not_fetched() {
    let mut bench = Bench::connected();
    let image = bench.fleet.image(1, &[10]);
    bench.device.store.insert(image.manifest);
    bench.event(Event::Done(Done::Refreshed {
        containers: Vec::new(),
        images: vec![image.manifest],
    }));
    bench.desire(1, &[app("web", &image, 1)]);
    bench.pass(1000);
    assert!(bench.device.pid("web") > 0 && wants(&mut bench).is_empty());
}

#[test]
fn the_rate_is_capped() {
    let mut bench = Bench::with(Some(16_384));
    bench.connect();
    let image = bench.fleet.image(1, &[163_840]);
    bench.desire(1, &[app("web", &image, 1)]);
    bench.pass(5000);
    assert!(!bench.device.store.contains(&image.manifest));
    bench.pass(10_000);
    assert!(bench.device.store.contains(&image.manifest));
}

#[test]
fn progress_is_reported_at_most_every_second() {
    let mut bench = Bench::with(Some(163_840));
    bench.connect();
    bench.take::<Reported>(Purpose::Reported);
    let image = bench.fleet.image(1, &[1_638_400]);
    bench.desire(1, &[app("web", &image, 1)]);
    bench.pass(8000);
    let reports: Vec<Reported> = bench.take(Purpose::Reported);
    let progress = reports
        .iter()
        .filter(|report| matches!(report.apps[0].state, AppState::Fetching { .. }))
        .count();
    assert!((4..=9).contains(&progress), "{progress} in 8 seconds");
}

#[test]
fn a_broken_import_begins_again_with_fresh_blobs() {
    let (mut bench, _) = asking(&[20_000]);
    bench.device.import_error = Some("a blob is damaged".into());
    for want in up_to_the_layer(&mut bench) {
        answer(&mut bench, &want);
    }
    assert!(bench.device.partials.is_empty());
    assert_eq!(bench.report().apps[0].detail.as_str(), "a blob is damaged");
    bench.serves_blocks = true;
    bench.pass(60_000);
    assert!(bench.device.pid("web") > 0);
}
