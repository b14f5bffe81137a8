//! Whatever is encoded decodes to the same, and no bytes make a decoder panic.

use std::fmt::Debug;

use proptest::prelude::*;
use punnet_protocol::signed::Signed;
use punnet_protocol::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{any, sign, verify};

fn buffer() -> Vec<u8> {
    vec![0; PAYLOAD_BYTES_MAX]
}

fn plain<T: Serialize + DeserializeOwned + PartialEq + Debug>(message: &T) {
    let mut buffer = buffer();
    let payload = envelope::encode(message, &mut buffer).unwrap();
    assert_eq!(&envelope::decode::<T>(payload).unwrap(), message);
}

fn signed<T: Signed + PartialEq + Debug>(message: &T) {
    let mut buffer = buffer();
    let payload = signed::encode(message, &mut buffer, sign).unwrap();
    let mut scratch = vec![0; payload.len()];
    assert_eq!(
        &signed::decode::<T>(payload, &mut scratch, verify).unwrap(),
        message
    );
}

fn decode_as_everything(payload: &[u8]) -> usize {
    let mut scratch = vec![0; payload.len()];
    usize::from(envelope::decode::<BlockAnswer>(payload).is_ok())
        + usize::from(envelope::decode::<BlockAnswerView<'_>>(payload).is_ok())
        + usize::from(envelope::decode::<BlockWant>(payload).is_ok())
        + usize::from(envelope::decode::<Presence>(payload).is_ok())
        + usize::from(envelope::decode::<Reported>(payload).is_ok())
        + usize::from(Report::decode(payload).is_ok())
        + usize::from(envelope::decode::<Reply>(payload).is_ok())
        + usize::from(envelope::decode::<LogChunk>(payload).is_ok())
        + usize::from(signed::decode::<Desired>(payload, &mut scratch, |_, _| true).is_ok())
        + usize::from(signed::decode::<Command>(payload, &mut scratch, |_, _| true).is_ok())
        + usize::from(DesiredView::read(payload).is_ok())
}

/// A payload with a good header around `body`, so that the fuzz reaches the decoder behind it.
fn wrapped(body: &[u8]) -> Vec<u8> {
    wrapped_as(SCHEMA_VERSION, body)
}

fn wrapped_as(version: u8, body: &[u8]) -> Vec<u8> {
    let mut payload = vec![version];
    payload.extend((body.len() as u32).to_le_bytes());
    payload.extend(crc32fast::hash(body).to_le_bytes());
    payload.extend(body);
    payload
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn desired_survives(message in any::desired()) { signed(&*message); }
    #[test]
    fn command_survives(message in any::command()) { signed(&message); }
    #[test]
    fn want_survives(message in any::want()) { plain(&message); }
    #[test]
    fn answer_survives(message in any::answer()) { plain(&message); }
    #[test]
    fn presence_survives(message in any::presence()) { plain(&message); }
    #[test]
    fn reported_survives(message in any::reported()) { plain(&message); }
    #[test]
    fn report_survives(message in any::report()) {
        let mut buffer = buffer();
        let payload = message.encode(&mut buffer).unwrap();
        prop_assert_eq!(Report::decode(payload).unwrap(), message);
    }
    #[test]
    fn reply_survives(message in any::reply()) { plain(&message); }
    #[test]
    fn log_chunk_survives(message in any::log_chunk()) { plain(&message); }

    #[test]
    fn a_topic_is_taken_apart_as_it_was_built(fleet in any::name(), device in any::name()) {
        use topics::Purpose;
        for purpose in Purpose::TO_DEVICE.into_iter().chain(Purpose::TO_FLEET) {
            let topic = topics::topic(&fleet, &device, purpose);
            prop_assert_eq!(topics::parse(&fleet, &topic), Some((device.clone(), purpose)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        decode_as_everything(&bytes);
        decode_as_everything(&wrapped(&bytes));
        decode_as_everything(&wrapped_as(TROUBLED_VERSION, &bytes));
    }

    #[test]
    fn no_damage_to_a_message_makes_a_decoder_panic(
        message in any::desired(), at in any::<prop::sample::Index>(), to in any::<u8>()
    ) {
        let mut body = postcard::to_stdvec(&message).unwrap();
        let at = at.index(body.len());
        body[at] = to;
        decode_as_everything(&wrapped(&[&[0; 64], body.as_slice()].concat()));
    }

    #[test]
    fn no_text_makes_the_topic_parser_panic(text in any::<String>()) {
        let fleet: Name = "home".parse().unwrap();
        topics::parse(&fleet, &text);
        topics::parse(&fleet, &format!("punnet/home/{text}"));
    }

    #[test]
    fn packed_strings_from_the_wire_are_whole(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let wire = postcard::to_stdvec(serde_bytes_of(&bytes)).unwrap();
        if let Ok(strings) = postcard::from_bytes::<Strings<32>>(&wire) {
            prop_assert!(bytes.len() <= 32);
            let again: Vec<u8> = strings.iter().flat_map(|s| [s.as_bytes(), &[0]].concat()).collect();
            prop_assert_eq!(again, bytes);
        }
    }
}

fn serde_bytes_of(bytes: &[u8]) -> &[u8] {
    bytes
}
