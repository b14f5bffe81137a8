//! Which manifest of an image a device can run: by the rules of [`punnet_images::platform`], which the device has too.

use std::fmt;

use punnet_images::platform::linux;
use punnet_protocol::{Arch, Digest};

/// A platform as an index or an image config names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `linux`, `windows`, ...
    pub os: String,
    /// GOARCH.
    pub architecture: String,
    /// `v6`, `v7`, `v8`; empty for none.
    pub variant: String,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// One platform's manifest of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Digest of the manifest.
    pub digest: Digest,
    /// What it is for.
    pub platform: Platform,
    /// Size of the manifest.
    pub manifest_bytes: u32,
    /// Manifest, config and layers.
    pub total_bytes: u64,
}

/// The OCI name of a device's architecture.
pub fn arch_name(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "linux/amd64",
        Arch::Arm64 => "linux/arm64",
        Arch::ArmV7 => "linux/arm/v7",
        Arch::ArmV6 => "linux/arm/v6",
    }
}

/// The best manifest for `arch`, `None` when there is none that surely runs there.
pub fn choose(manifests: &[Manifest], arch: Arch) -> Option<&Manifest> {
    manifests
        .iter()
        .filter_map(|manifest| rank(&manifest.platform, arch).map(|rank| (rank, manifest)))
        // The first of equals, as containerd takes it.
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, manifest)| manifest)
}

/// The platforms of an image for people: `linux/amd64, linux/arm/v7`.
pub fn offered(manifests: &[Manifest]) -> String {
    let names: Vec<String> = manifests
        .iter()
        .map(|manifest| manifest.platform.to_string())
        .collect();
    if names.is_empty() {
        "no platform".into()
    } else {
        names.join(", ")
    }
}

/// 0 for the very thing, more for what also runs, `None` for what does not. The rules are the device's own; whether an arm64
/// board also runs 32-bit programs is not known here, so it is not counted on.
fn rank(platform: &Platform, arch: Arch) -> Option<u32> {
    let device = match arch {
        Arch::Amd64 => linux("amd64", None),
        Arch::Arm64 => linux("arm64", Some("v8")),
        Arch::ArmV7 => linux("arm", Some("v7")),
        Arch::ArmV6 => linux("arm", Some("v6")),
    };
    let variant = Some(platform.variant.clone()).filter(|variant| !variant.is_empty());
    let image = punnet_images::Platform {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant,
        ..punnet_images::Platform::default()
    };
    device.fit(&image, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(platform: &str, tag: u8) -> Manifest {
        let mut parts = platform.split('/').map(str::to_owned);
        Manifest {
            digest: Digest([tag; 32]),
            platform: Platform {
                os: parts.next().unwrap(),
                architecture: parts.next().unwrap(),
                variant: parts.next().unwrap_or_default(),
            },
            manifest_bytes: 1,
            total_bytes: 1,
        }
    }

    #[test]
    fn each_board_gets_what_its_cpu_runs() {
        let table: [(&[&str], Arch, Option<usize>); 12] = [
            (&["linux/amd64", "linux/arm64"], Arch::Arm64, Some(1)),
            (&["linux/arm64/v8"], Arch::Arm64, Some(0)),
            (&["linux/arm64/v9"], Arch::Arm64, None),
            (&["linux/amd64/v3", "linux/amd64"], Arch::Amd64, Some(1)),
            (&["linux/arm/v6", "linux/arm/v7"], Arch::ArmV7, Some(1)),
            (&["linux/arm/v6", "linux/arm/v7"], Arch::ArmV6, Some(0)),
            (&["linux/arm/v6"], Arch::ArmV7, Some(0)),
            (&["linux/arm"], Arch::ArmV7, Some(0)),
            (&["linux/arm"], Arch::ArmV6, None),
            (&["linux/arm/v7"], Arch::ArmV6, None),
            (&["linux/arm/v7"], Arch::Arm64, None),
            (&["windows/amd64"], Arch::Amd64, None),
        ];
        for (platforms, arch, expected) in table {
            let manifests: Vec<_> = platforms
                .iter()
                .enumerate()
                .map(|(n, p)| manifest(p, n as u8))
                .collect();
            let chosen = choose(&manifests, arch).map(|m| m.digest.0[0] as usize);
            assert_eq!(chosen, expected, "{platforms:?} for {arch:?}");
        }
    }
}
