//! Any bytes as state.json: a container's state that can be printed and read again, or an error.

#![no_main]

use libfuzzer_sys::fuzz_target;
use punnet_runtime::{ContainerId, state_from_json};

fuzz_target!(|bytes: &[u8]| {
    let Ok(state) = state_from_json(bytes) else { return };
    assert!(ContainerId::new(&state.id).is_ok());
    assert!(state.pid.is_none(), "a container that has ended has no process");
    let text = serde_json::to_vec(&state).expect("a state is JSON");
    assert!(!text.is_empty());
});
