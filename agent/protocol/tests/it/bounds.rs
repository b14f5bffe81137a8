//! The largest messages against the largest payload.

use punnet_protocol::envelope::{self, EnvelopeError};
use punnet_protocol::*;

use crate::{golden, sign};

fn full_name(at: usize) -> Name {
    format!("{at:x>63}").parse().unwrap()
}

/// An app with every field at its bound.
fn full_app(at: usize) -> App {
    let text = |length: usize| "x".repeat(length);
    App {
        name: full_name(at),
        image: ImageSource {
            reference: clipped(&text(REFERENCE_BYTES_MAX)),
            manifest: Digest([255; 32]),
            manifest_bytes: u32::MAX,
            total_bytes: u64::MAX,
        },
        entrypoint: Strings::new([text(ARGS_BYTES_MAX - 1)]).unwrap(),
        args: Strings::new([text(ARGS_BYTES_MAX - 1)]).unwrap(),
        env: Strings::new([text(ENV_BYTES_MAX - 1)]).unwrap(),
        network: Network::Host,
        restart: RestartPolicy::Always,
        limits: Limits {
            memory_bytes_max: Some(u64::MAX),
            pids_max: Some(u32::MAX),
            cpu_millis_max: Some(u32::MAX),
        },
        device_classes: (0..DEVICE_CLASSES_MAX).map(|_| clipped(&text(32))).collect(),
        mounts: (0..MOUNTS_MAX)
            .map(|_| Mount {
                source: clipped(&text(PATH_BYTES_MAX)),
                target: clipped(&text(PATH_BYTES_MAX)),
                read_only: true,
            })
            .collect(),
        read_only: true,
        stop_timeout_ms: u32::MAX,
        soak_ms: u32::MAX,
    }
}

#[test]
fn the_largest_desired_state_fits_a_payload() {
    let apps = (0..APPS_MAX).map(full_app).collect();
    let (fleet, device) = (full_name(0), full_name(1));
    let desired = Desired {
        fleet,
        device,
        generation: u64::MAX,
        signed_at_s: u64::MAX,
        apps,
    };
    let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
    let payload = signed::encode(&desired, &mut buffer, sign).unwrap();
    assert!(
        payload.len() > 80 * 1024,
        "every field is at its bound: {}",
        payload.len()
    );
}

#[test]
fn the_largest_of_the_other_messages_fit_a_payload() {
    let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
    let block = Block {
        blob: Digest([255; 32]),
        offset: u64::MAX,
        total_bytes: u64::MAX,
        data: heapless::Vec::from_slice(&[255; BLOCK_BYTES_MAX]).unwrap(),
    };
    assert!(envelope::encode(&BlockAnswer::Data(block), &mut buffer).is_ok());
    let app = AppReport {
        name: full_name(0),
        manifest: Digest([255; 32]),
        state: AppState::Fetching {
            done_bytes: u64::MAX,
            total_bytes: u64::MAX,
        },
        restarts: u32::MAX,
        detail: clipped(&"x".repeat(DETAIL_BYTES_MAX)),
        spec: Digest([255; 32]),
    };
    let mut reported = golden::reported();
    reported.apps = (0..APPS_MAX).map(|_| app.clone()).collect();
    assert!(envelope::encode(&reported, &mut buffer).is_ok());
    let report = Report {
        troubles: (0..TROUBLES_MAX)
            .map(|_| clipped(&"x".repeat(DETAIL_BYTES_MAX)))
            .collect(),
        reported,
    };
    assert!(report.encode(&mut buffer).is_ok());
}

#[test]
fn a_message_that_does_not_fit_its_buffer_is_refused_by_the_encoder() {
    let desired = golden::desired();
    let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
    let fits = signed::encode(&desired, &mut buffer, sign).unwrap().len();
    for bytes in [0, 8, 9, 72, 73, fits - 1] {
        let refused = signed::encode(&desired, &mut buffer[..bytes], sign).unwrap_err();
        assert_eq!(refused, EnvelopeError::TooLarge, "{bytes}");
    }
    assert!(signed::encode(&desired, &mut buffer[..fits], sign).is_ok());
}

#[test]
fn a_message_larger_than_a_payload_is_refused_by_the_encoder_whatever_its_buffer() {
    let body = [0_u8; PAYLOAD_BYTES_MAX];
    let mut buffer = vec![0; 2 * PAYLOAD_BYTES_MAX];
    assert_eq!(
        envelope::encode(&body.as_slice(), &mut buffer).unwrap_err(),
        EnvelopeError::TooLarge
    );
}

#[test]
fn a_list_of_strings_that_does_not_fit_is_left_as_it_was() {
    let mut list: Strings<8> = Strings::new(["ab", ""]).unwrap();
    assert_eq!(list.push("12345"), Err(StringsError::TooLong { bytes_max: 8 }));
    assert_eq!(list.push("a\0"), Err(StringsError::Nul));
    assert_eq!(list.iter().collect::<Vec<_>>(), ["ab", ""]);
    list.push("123").unwrap();
    assert_eq!(list.iter().count(), 3);
}
