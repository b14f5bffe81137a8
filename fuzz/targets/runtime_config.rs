//! Any bytes as config.json: a plan, or an error that says why not.

#![no_main]

use libfuzzer_sys::fuzz_target;
use punnet_runtime::plan::{HostFacts, plan};
use punnet_spec::Spec;

fuzz_target!(|bytes: &[u8]| {
    let Ok(spec) = Spec::from_json(bytes) else { return };
    for euid in [0, 1000] {
        let host = HostFacts {
            bundle: "/bundle".into(),
            id: "fuzz".into(),
            euid,
            egid: euid,
            new_keyring: true,
            capabilities_missing: 1,
            apparmor: true,
            selinux: true,
            own_file: None,
        };
        if let Err(error) = plan(&spec, &host) {
            assert!(!error.to_string().is_empty());
        }
    }
});
