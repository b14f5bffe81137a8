//! What a payload must not be, and the reason each gets.

use punnet_protocol::envelope::{self, EnvelopeError, HEADER_BYTES};
use punnet_protocol::signed::{self, SIGNATURE_BYTES, SignedError};
use punnet_protocol::*;
use serde::{Deserialize, Serialize};

use crate::{golden, sign, verify};

fn presence() -> Vec<u8> {
    let mut buffer = [0; 64];
    envelope::encode(
        &Presence {
            session: 9,
            online: true,
        },
        &mut buffer,
    )
    .unwrap()
    .to_vec()
}

fn resealed(mut payload: Vec<u8>) -> Vec<u8> {
    let body = payload.split_off(HEADER_BYTES);
    let mut sealed = vec![SCHEMA_VERSION];
    sealed.extend((body.len() as u32).to_le_bytes());
    sealed.extend(crc32fast::hash(&body).to_le_bytes());
    sealed.extend(body);
    sealed
}

fn refusal(payload: &[u8]) -> EnvelopeError {
    envelope::decode::<Presence>(payload).unwrap_err()
}

#[test]
fn every_wrong_header_is_named() {
    let good = presence();
    let with = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        bad
    };
    for version in [0, 2, 3] {
        assert_eq!(refusal(&with(0, version)), EnvelopeError::Version(version));
    }
    assert_eq!(
        Report::decode(&with(0, 3)).unwrap_err(),
        EnvelopeError::Version(3)
    );
    assert_eq!(refusal(&with(1, 99)), EnvelopeError::Length);
    assert_eq!(refusal(&with(5, !good[5])), EnvelopeError::Checksum);
    assert_eq!(
        refusal(&with(HEADER_BYTES, !good[HEADER_BYTES])),
        EnvelopeError::Checksum
    );
    assert_eq!(refusal(&good[..good.len() - 1]), EnvelopeError::Length);
    assert_eq!(refusal(&[]), EnvelopeError::Length);
    assert_eq!(refusal(&vec![1; PAYLOAD_BYTES_MAX + 1]), EnvelopeError::TooLarge);
}

#[test]
fn bytes_left_over_are_refused() {
    let mut longer = presence();
    longer.push(0);
    assert_eq!(refusal(&resealed(longer)), EnvelopeError::Body);
}

#[test]
fn an_unknown_trailing_field_of_a_signed_message_is_refused() {
    #[derive(Serialize, Deserialize)]
    struct Newer {
        known: Command,
        unknown: u8,
    }
    impl signed::Signed for Newer {
        const DOMAIN: &'static [u8] = <Command as signed::Signed>::DOMAIN;
    }
    let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
    let newer = Newer {
        known: golden::command(),
        unknown: 1,
    };
    let payload = signed::encode(&newer, &mut buffer, sign).unwrap();
    let mut scratch = vec![0; payload.len()];
    let refused = signed::decode::<Command>(payload, &mut scratch, verify).unwrap_err();
    assert_eq!(refused, SignedError::Envelope(EnvelopeError::Body));
}

#[test]
fn a_signature_of_one_kind_never_fits_another() {
    #[derive(Serialize, Deserialize)]
    struct AsDesired(Command);
    impl signed::Signed for AsDesired {
        const DOMAIN: &'static [u8] = <Desired as signed::Signed>::DOMAIN;
    }
    let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
    let payload = signed::encode(&AsDesired(golden::command()), &mut buffer, sign).unwrap();
    let mut scratch = vec![0; payload.len()];
    let refused = signed::decode::<Command>(payload, &mut scratch, verify).unwrap_err();
    assert_eq!(refused, SignedError::Signature);
}

#[test]
fn a_change_of_any_signed_byte_is_refused() {
    let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
    let payload = signed::encode(&golden::desired(), &mut buffer, sign).unwrap();
    let mut scratch = vec![0; payload.len()];
    for at in HEADER_BYTES..payload.len() {
        let mut altered = payload.to_vec();
        altered[at] ^= 1;
        let refused = signed::decode::<Desired>(&resealed(altered), &mut scratch, verify).unwrap_err();
        assert_eq!(refused, SignedError::Signature, "byte {at}");
    }
}

#[test]
fn nothing_is_decoded_before_the_signature_is_checked() {
    // Garbage where the message would be: the answer is about the signature, not about the garbage.
    let payload = resealed([vec![0; HEADER_BYTES + SIGNATURE_BYTES], vec![0xff; 40]].concat());
    let mut scratch = vec![0; payload.len()];
    assert_eq!(
        signed::decode::<Desired>(&payload, &mut scratch, verify).unwrap_err(),
        SignedError::Signature
    );
}

#[test]
fn a_body_too_short_for_a_signature_is_refused() {
    let payload = resealed(vec![0; HEADER_BYTES + SIGNATURE_BYTES - 1]);
    let refused = signed::decode::<Desired>(&payload, &mut [0; 512], verify).unwrap_err();
    assert_eq!(refused, SignedError::Envelope(EnvelopeError::Body));
}

#[test]
fn only_topics_of_our_fleet_and_shape_are_ours() {
    let fleet: Name = "home".parse().unwrap();
    for topic in [
        "",
        "punnet",
        "punnet/home",
        "punnet/home/kitchen",
        "punnet/home/kitchen/",
        "punnet/home/kitchen/desire",
        "punnet/home/kitchen/desired/x",
        "punnet/home//desired",
        "punnet/home/Kitchen/desired",
        "punnet/homes/kitchen/desired",
        "punnet/other/kitchen/desired",
        "/punnet/home/kitchen/desired",
    ] {
        assert_eq!(topics::parse(&fleet, topic), None, "{topic}");
    }
}

#[test]
fn names_are_dns_labels() {
    for good in ["a", "0", "a-b", "a--b", &"x".repeat(63)] {
        assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
    }
    for bad in [
        "",
        "-",
        "-a",
        "a-",
        "A",
        "a.b",
        "a/b",
        "a_b",
        "ü",
        "a b",
        "a\0",
        "+",
        "#",
        &"x".repeat(64),
    ] {
        assert!(bad.parse::<Name>().is_err(), "{bad:?}");
    }
}

#[test]
fn digests_are_lower_case_sha256() {
    let text = format!("sha256:{}", "0123456789abcdef".repeat(4));
    assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
    for bad in [
        "",
        "sha256:",
        &text[7..],
        &text.to_uppercase(),
        &text[..70],
        &format!("{text}0"),
        "sha512:00",
    ] {
        assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
    }
}
