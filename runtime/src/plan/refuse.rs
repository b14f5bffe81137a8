//! Fields that we do not implement and that tighten security or change what the container means, and values that the specification
//! forbids: refused by name, before anything is made.

use super::HostFacts;
use crate::error::{Error, Result};
use punnet_spec::{Linux, Process, Spec};

/// The major version of the specification we know the meaning of: within one, versions are compatible.
const KNOWN_MAJOR: &str = "1";

/// Goes through the whole file.
pub fn unsupported(spec: &Spec, host: &HostFacts) -> Result<()> {
    version(&spec.oci_version)?;
    if spec.vm.is_some() {
        return refuse("vm", "this runtime makes containers, not virtual machines");
    }
    hooks(spec)?;
    match &spec.linux {
        Some(linux) => unsupported_in_linux(linux, host),
        None => Ok(()),
    }
}

/// Semantic versioning: three numbers, and anything behind a `-` or `+`.
fn version(version: &str) -> Result<()> {
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<&str> = numbers.split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if parts.len() != 3 || !parts.iter().all(is_number) {
        return refuse("ociVersion", &format!("{version:?} is not a version as 1.3.0"));
    }
    if parts[0] != KNOWN_MAJOR {
        return refuse("ociVersion", &format!("{version:?} is not a version 1"));
    }
    Ok(())
}

fn hooks(spec: &Spec) -> Result<()> {
    let Some(hooks) = &spec.hooks else { return Ok(()) };
    for (kind, list) in [
        ("prestart", &hooks.prestart),
        ("createRuntime", &hooks.create_runtime),
        ("createContainer", &hooks.create_container),
        ("startContainer", &hooks.start_container),
        ("poststart", &hooks.poststart),
        ("poststop", &hooks.poststop),
    ] {
        for (index, hook) in list.iter().enumerate() {
            let field = |name: &str| format!("hooks.{kind}[{index}].{name}");
            if !hook.path.starts_with('/') {
                return refuse(&field("path"), "must be absolute");
            }
            if hook.timeout.is_some_and(|seconds| seconds <= 0) {
                return refuse(&field("timeout"), "must be above zero");
            }
        }
    }
    Ok(())
}

fn unsupported_in_linux(linux: &Linux, host: &HostFacts) -> Result<()> {
    if linux.intel_rdt.is_some() {
        return refuse(
            "linux.intelRdt",
            "is not supported: no board this runtime is made for has Intel's cache allocation",
        );
    }
    if !linux.mount_label.is_empty() && !host.selinux {
        return refuse("linux.mountLabel", NO_SELINUX);
    }
    for (field, paths) in [
        ("linux.maskedPaths", &linux.masked_paths),
        ("linux.readonlyPaths", &linux.readonly_paths),
    ] {
        if let Some(path) = paths.iter().find(|path| !path.starts_with('/')) {
            return refuse(field, &format!("{path:?} is not an absolute path"));
        }
    }
    let Some(resources) = &linux.resources else {
        return Ok(());
    };
    if let Some(network) = &resources.network
        && (network.class_id.is_some() || !network.priorities.is_empty())
    {
        return refuse("linux.resources.network", "exists in cgroup v1 only");
    }
    Ok(())
}

const NO_SELINUX: &str = "asks for an SELinux label, and SELinux is not active in this machine's kernel \
                          (boot with security=selinux selinux=1, or leave the label out)";
const NO_APPARMOR: &str = "asks for an AppArmor profile, and AppArmor is not active in this machine's kernel \
                           (boot with security=apparmor apparmor=1, or leave the profile out)";

/// The part that `exec` reads too.
pub fn unsupported_in_process(process: &Process, host: &HostFacts) -> Result<()> {
    if !process.selinux_label.is_empty() && !host.selinux {
        return refuse("process.selinuxLabel", NO_SELINUX);
    }
    let profile = process.apparmor_profile.as_str();
    if !profile.is_empty() && profile != "unconfined" && !host.apparmor {
        return refuse("process.apparmorProfile", NO_APPARMOR);
    }
    for (field, text) in [
        ("process.selinuxLabel", process.selinux_label.as_str()),
        ("process.apparmorProfile", profile),
    ] {
        if text.contains(['\0', '\n']) {
            return refuse(field, "has a zero byte or a line's end");
        }
    }
    Ok(())
}

fn refuse(field: &str, reason: &str) -> Result<()> {
    Err(Error::config(field, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> std::result::Result<(), String> {
        let spec = Spec::from_json(text.as_bytes()).unwrap();
        unsupported(&spec, &HostFacts::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn every_version_one_is_taken_and_no_other() {
        for good in ["1.0.0", "1.3.0", "1.0.2-dev", "1.99.0+build"] {
            check(&format!(r#"{{"ociVersion":"{good}"}}"#)).unwrap();
        }
        for bad in ["", "1", "1.0", "2.0.0", "0.2.0", "1.0.x", "v1.0.0"] {
            let error = check(&format!(r#"{{"ociVersion":"{bad}"}}"#)).unwrap_err();
            assert!(error.contains("ociVersion"), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_done_here_is_named() {
        for (field, rest) in [
            ("vm", r#""vm":{}"#),
            ("linux.intelRdt", r#""linux":{"intelRdt":{}}"#),
            ("linux.mountLabel", r#""linux":{"mountLabel":"a:b:c:d"}"#),
            ("linux.maskedPaths", r#""linux":{"maskedPaths":["proc"]}"#),
            (
                "linux.resources.network",
                r#""linux":{"resources":{"network":{"classID":1}}}"#,
            ),
            (
                "hooks.poststop[0].path",
                r#""hooks":{"poststop":[{"path":"true"}]}"#,
            ),
            (
                "hooks.prestart[0].timeout",
                r#""hooks":{"prestart":[{"path":"/t","timeout":0}]}"#,
            ),
        ] {
            let error = check(&format!(r#"{{"ociVersion":"1.3.0",{rest}}}"#)).unwrap_err();
            assert!(error.contains(field), "{error}");
        }
        check(r#"{"ociVersion":"1.3.0","linux":{"resources":{"network":{}}}}"#).unwrap();
    }

    #[test]
    fn labels_need_a_kernel_that_has_them() {
        let process = |label: &str, profile: &str| Process {
            selinux_label: label.into(),
            apparmor_profile: profile.into(),
            ..Process::default()
        };
        let none = HostFacts::default();
        let all = HostFacts {
            apparmor: true,
            selinux: true,
            ..HostFacts::default()
        };
        for (process, word) in [
            (process("a:b:c:d", ""), "process.selinuxLabel"),
            (process("", "own"), "process.apparmorProfile"),
        ] {
            let error = unsupported_in_process(&process, &none).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
            unsupported_in_process(&process, &all).unwrap();
        }
        unsupported_in_process(&process("", "unconfined"), &none).unwrap();
        assert!(unsupported_in_process(&process("", "a\nb"), &all).is_err());
    }
}
