//! Images in, blocks out.

use punnet_protocol::topics::Purpose;
use punnet_protocol::{Arch, BLOCK_BYTES_MAX, BlockAnswer, BlockRefusal, BlockWant, Digest, envelope};
use sha2::{Digest as _, Sha256};

use crate::on_both_brokers;
use crate::stand::{Broker, Device, Stand};

on_both_brokers! {
    a_device_fetches_a_blob_block_by_block
    what_is_not_in_the_store_or_the_blob_is_refused
}

fn ask(device: &mut Device, blob: Digest, offset: u64, length: u32) {
    device.publish(Purpose::Want, &BlockWant { blob, offset, length }, false);
}

fn answer(device: &mut Device) -> BlockAnswer {
    envelope::decode(&device.next(Purpose::Block)).unwrap()
}

fn a_device_fetches_a_blob_block_by_block(broker: Broker) {
    let stand = Stand::start(broker);
    let image = stand.add_image("hello", &["linux/amd64"]);
    let mut device = stand.device("pi", Arch::Amd64);
    let blob: Digest = image.layer_digest.parse().unwrap();
    let mut fetched: Vec<u8> = Vec::new();
    let window = 4;
    let blocks = image.layer.len().div_ceil(BLOCK_BYTES_MAX);
    for block in 0..blocks + window {
        if block < blocks {
            ask(
                &mut device,
                blob,
                (block * BLOCK_BYTES_MAX) as u64,
                BLOCK_BYTES_MAX as u32,
            );
        }
        if block >= window {
            let BlockAnswer::Data(data) = answer(&mut device) else {
                panic!("refused")
            };
            assert_eq!(
                (data.offset, data.total_bytes),
                (fetched.len() as u64, image.layer.len() as u64)
            );
            fetched.extend_from_slice(&data.data);
        }
    }
    assert_eq!(Sha256::digest(&fetched), Sha256::digest(&image.layer));
}

fn what_is_not_in_the_store_or_the_blob_is_refused(broker: Broker) {
    let stand = Stand::start(broker);
    let image = stand.add_image("hello", &["linux/amd64"]);
    let mut device = stand.device("pi", Arch::Amd64);
    let blob: Digest = image.layer_digest.parse().unwrap();
    // A file that lies in the blob directory and belongs to no image is not served.
    let stray = Digest(Sha256::digest(b"stray").into());
    std::fs::write(
        punnet_fleet::image_store::blob_path(&stand.state().join("blobs"), &stray),
        b"stray",
    )
    .unwrap();
    let mut refused = |blob, offset, length, expected| {
        ask(&mut device, blob, offset, length);
        assert_eq!(
            answer(&mut device),
            BlockAnswer::Refused {
                blob,
                reason: expected
            }
        );
    };
    refused(Digest([7; 32]), 0, 10, BlockRefusal::Unknown);
    refused(stray, 0, 5, BlockRefusal::Unknown);
    refused(blob, image.layer.len() as u64, 10, BlockRefusal::OutOfRange);
    refused(blob, u64::MAX, 10, BlockRefusal::OutOfRange);
    refused(blob, 0, 0, BlockRefusal::OutOfRange);
    refused(blob, 0, BLOCK_BYTES_MAX as u32 + 1, BlockRefusal::OutOfRange);
}

#[test]
fn a_damaged_or_truncated_image_is_refused_and_leaves_nothing() {
    let stand = Stand::start(Broker::Embedded);
    let image = crate::stand::TestImage::write(&stand.folder.path().join("damaged"), &["linux/amd64"]);
    let layer = image
        .path
        .join("blobs")
        .join(image.layer_digest.replace(':', "/"));
    let mut bytes = image.layer.clone();
    bytes[100] ^= 1;
    std::fs::write(&layer, &bytes).unwrap();
    let add = ["images", "add", image.path.to_str().unwrap(), "--name", "bad"];
    let error = stand.refused(&add);
    assert!(error.contains(&image.layer_digest), "{error}");
    std::fs::write(&layer, &image.layer[..100]).unwrap();
    let error = stand.refused(&add);
    assert!(error.contains("100"), "{error}");
    assert_eq!(stand.json(&["images", "ls", "--json"]), serde_json::json!([]));
    let left = std::fs::read_dir(stand.state().join("blobs/tmp"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}

#[test]
fn all_platforms_are_kept_and_a_wanted_image_is_not_removed() {
    let stand = Stand::start(Broker::Embedded);
    stand.add_image("hello", &["linux/amd64", "linux/arm/v7", "linux/arm64/v8"]);
    let images = stand.json(&["images", "ls", "--json"]);
    assert_eq!(images[0]["reference"], "hello:latest");
    assert_eq!(
        images[0]["platforms"],
        serde_json::json!(["linux/amd64", "linux/arm/v7", "linux/arm64/v8"])
    );
    let _device = stand.device("pi", Arch::Arm64);
    stand.run(&["deploy", "--app", "web", "--image", "hello", "--device", "pi"]);
    let error = stand.refused(&["images", "rm", "hello"]);
    assert!(error.contains("wanted by app 'web' on device 'pi'"), "{error}");
    stand.run(&["rm", "--app", "web", "--device", "pi"]);
    stand.run(&["images", "rm", "hello"]);
    let left = std::fs::read_dir(stand.state().join("blobs/sha256"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "its blobs are gone");
}

#[test]
fn a_replaced_image_stays_for_the_devices_that_want_it() {
    let stand = Stand::start(Broker::Embedded);
    let old = stand.add_image("hello", &["linux/amd64"]);
    let mut device = stand.device("pi", Arch::Amd64);
    stand.run(&["deploy", "--app", "web", "--image", "hello", "--device", "pi"]);
    let new =
        crate::stand::TestImage::write(&stand.folder.path().join("new"), &["linux/amd64", "linux/arm/v7"]);
    stand.run(&["images", "add", new.path.to_str().unwrap(), "--name", "hello"]);
    let images = stand.json(&["images", "ls", "--json"]);
    let aside = format!("hello:latest@{}", old.manifests[0]);
    assert_eq!(
        (images[0]["reference"].as_str(), images[1]["reference"].as_str()),
        (Some("hello:latest"), Some(&*aside))
    );
    ask(&mut device, old.manifests[0].parse().unwrap(), 0, 10);
    assert!(matches!(answer(&mut device), BlockAnswer::Data(_)));
    let view = stand.device_view("pi");
    assert_eq!(
        (
            view["apps"][0]["image"].as_str(),
            view["generation_wanted"].as_u64()
        ),
        (Some(&*aside), Some(1))
    );
}
