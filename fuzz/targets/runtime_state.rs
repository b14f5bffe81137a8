//! Any bytes as state.json: the state of a container that has ended, or an error.

#![no_main]

use libfuzzer_sys::fuzz_target;
use punnet_runtime::{ContainerId, state_from_json};

fuzz_target!(|bytes: &[u8]| {
    let Ok(state) = state_from_json(bytes) else { return };
    assert!(ContainerId::new(&state.id).is_ok());
    assert!(state.pid.is_none(), "a container that has ended has no process");
});
