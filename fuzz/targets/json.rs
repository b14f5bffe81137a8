//! Any bytes as JSON: taken or not as serde_json does it, and written so that serde_json reads the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let ours = punnet_json::from_slice::<punnet_json::Value>(bytes);
    match (serde_json::from_slice::<Value>(bytes), &ours) {
        (Ok(theirs), Ok(ours)) => {
            for written in [punnet_json::to_vec(ours), punnet_json::to_vec_pretty(ours)] {
                assert_eq!(
                    serde_json::from_slice::<Value>(&written).ok().as_ref(),
                    Some(&theirs)
                );
            }
        }
        (Err(_), Err(_)) => {}
        // A number beyond what f64 holds is kept as it stands.
        (Err(error), Ok(_)) => assert!(error.to_string().starts_with("number out of range"), "{error}"),
        (Ok(_), Err(error)) => panic!("{error}"),
    }
});
