//! Which image of an index this board runs. The rules are containerd's (platforms package): an ARM CPU of a version runs the
//! images of its own and of every older version; `arm` without a variant means v7 and `arm64` means v8.
//!
//! The host is described by facts that are read once; choosing is a pure function over them. A 32-bit punnet on a 64-bit kernel
//! takes 32-bit images: its system call filter knows that architecture only.

use crate::oci::{Descriptor, Platform};
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// What is known about the machine and the running binary.
#[derive(Clone, Debug, Default)]
pub struct HostFacts<'a> {
    /// `std::env::consts::ARCH` of the binary: `x86_64`, `aarch64`, `arm`.
    pub binary: &'a str,
    /// `uname -m`: `armv6l`, `armv7l`, `aarch64`, ...
    pub machine: &'a str,
    /// Contents of /proc/cpuinfo.
    pub cpuinfo: &'a str,
    /// AT_PLATFORM of getauxval(3): `v6l`, `v7l`, `aarch64`, ...
    pub cpu: &'a str,
    /// AT_HWCAP; 0 when it is not known.
    pub hwcap: u64,
}

impl HostFacts<'_> {
    /// The platform these facts describe.
    pub fn platform(&self) -> Platform {
        match self.binary {
            "x86_64" => linux("amd64", None),
            "aarch64" => linux("arm64", Some("v8")),
            "arm" => linux("arm", Some(self.arm_variant())),
            "x86" => linux("386", None),
            other => linux(other, None),
        }
    }

    /// Images for v6 and newer are built for hardware floating point, whatever else the CPU can.
    fn arm_variant(&self) -> &'static str {
        /// HWCAP_VFP of arch/arm/include/uapi/asm/hwcap.h.
        const VFP: u64 = 1 << 6;
        if self.hwcap != 0 && self.hwcap & VFP == 0 {
            return "v5";
        }
        self.cpu_variant()
    }

    /// The kernel's own names for the CPU first, of which a personality may change that of uname(2): /proc/cpuinfo of an ARMv6 Raspberry Pi says
    /// `CPU architecture: 7`.
    fn cpu_variant(&self) -> &'static str {
        match self.cpu.get(..2) {
            Some("v5") => return "v5",
            Some("v6") => return "v6",
            Some("v7") => return "v7",
            Some("v8" | "aa") => return "v8",
            _ => {}
        }
        match self.machine.get(..5) {
            Some("armv5") => return "v5",
            Some("armv6") => return "v6",
            Some("armv7") => return "v7",
            Some("armv8" | "aarch") => return "v8",
            _ => {}
        }
        let field = |name: &str| {
            let line = self.cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim())
        };
        let model_is_v6 =
            field("model name").is_some_and(|model| model.to_ascii_lowercase().starts_with("armv6"));
        match field("CPU architecture").unwrap_or_default() {
            "8" | "AArch64" => "v8",
            "7" if !model_is_v6 => "v7",
            "5" | "5T" | "5TE" | "5TEJ" => "v5",
            _ => "v6",
        }
    }
}

/// The platform of the running board.
pub fn host() -> Platform {
    let machine = nix::sys::utsname::uname()
        .map(|name| name.machine().to_string_lossy().into_owned())
        .unwrap_or_default();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    HostFacts {
        binary: std::env::consts::ARCH,
        machine: &machine,
        cpuinfo: &cpuinfo,
        cpu: punnet_sys::auxv_platform().unwrap_or_default(),
        hwcap: punnet_sys::auxv_hwcap(),
    }
    .platform()
}

/// Whether this 64-bit ARM kernel and CPU execute 32-bit programs. Always false on other machines.
///
/// Some 64-bit cores have no 32-bit mode, and kernels may be built without it; personality(2) tells, as lscpu(1) asks it.
pub fn host_runs_32bit_arm() -> bool {
    #[cfg(target_arch = "aarch64")]
    {
        use nix::sys::personality::{self, Persona};
        const PER_LINUX32: i32 = 8;
        let Ok(before) = personality::get() else {
            return false;
        };
        let runs = personality::set(Persona::from_bits_retain(PER_LINUX32)).is_ok();
        personality::set(before).is_ok() && runs
    }
    #[cfg(not(target_arch = "aarch64"))]
    false
}

/// A Linux platform.
pub fn linux(architecture: &str, variant: Option<&str>) -> Platform {
    Platform {
        architecture: architecture.to_owned(),
        os: "linux".to_owned(),
        os_version: None,
        variant: variant.map(str::to_owned),
    }
}

impl Platform {
    /// The same platform in the words used for comparing: Debian's and uname's names, and the variants that go without saying.
    pub fn normalized(&self) -> Self {
        let (architecture, implied) = match self.architecture.as_str() {
            "x86_64" | "x86-64" => ("amd64", None),
            "aarch64" | "arm64" => ("arm64", Some("v8")),
            "armhf" | "arm" => ("arm", Some("v7")),
            "armel" => ("arm", Some("v6")),
            other => (other, None),
        };
        let given = self.variant.as_deref().filter(|variant| !variant.is_empty());
        let variant = match (architecture, given) {
            ("arm", Some("5" | "6" | "7" | "8")) => given.map(|digit| format!("v{digit}")),
            ("arm64", Some("8" | "8.0" | "v8.0")) => Some("v8".to_owned()),
            ("amd64", Some("v1")) => None,
            (_, Some(given)) => Some(given.to_owned()),
            (_, None) => implied.map(str::to_owned),
        };
        Self {
            architecture: architecture.to_owned(),
            os: self.os.to_ascii_lowercase(),
            os_version: self.os_version.clone(),
            variant,
        }
    }

    /// How well an image for `image` fits a host that is `self`: 0 is best, `None` is not at all.
    ///
    /// `runs_32bit_arm` matters to arm64 hosts only.
    pub fn fit(&self, image: &Platform, runs_32bit_arm: bool) -> Option<u32> {
        let (host, image) = (self.normalized(), image.normalized());
        if host.os != image.os {
            return None;
        }
        match (host.architecture.as_str(), image.architecture.as_str()) {
            ("arm", "arm") => arm_version(&host)?.checked_sub(arm_version(&image)?),
            ("arm64", "arm64") => arm64_fit(arm64_version(&host)?, arm64_version(&image)?),
            ("arm64", "arm") if runs_32bit_arm => Some(100 + 8u32.checked_sub(arm_version(&image)?)?),
            (host_arch, image_arch) => {
                (host_arch == image_arch && host.variant == image.variant).then_some(0)
            }
        }
    }
}

fn arm_version(platform: &Platform) -> Option<u32> {
    let version = platform.variant.as_deref()?.strip_prefix('v')?.parse().ok()?;
    (5..=8).contains(&version).then_some(version)
}

/// `v8.2` as (8, 2).
fn arm64_version(platform: &Platform) -> Option<(u32, u32)> {
    let version = platform.variant.as_deref()?.strip_prefix('v')?;
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    ((8..=9).contains(&major) && minor < 10).then_some((major, minor))
}

/// v9.0 was made from v8.5, so what is for v8.5 or older runs on it, and nothing for v9 on any v8.
fn arm64_fit(host: (u32, u32), image: (u32, u32)) -> Option<u32> {
    match (host, image) {
        ((9, minor), (8, older)) => Some(minor + 1 + (minor + 5).checked_sub(older)?),
        ((major, minor), (same, older)) if major == same => minor.checked_sub(older),
        _ => None,
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |text: &str| -> String { text.chars().take(32).filter(|c| !c.is_control()).collect() };
        write!(out, "{}/{}", word(&self.os), word(&self.architecture))?;
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => write!(out, "/{}", word(variant)),
            _ => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = Box<Error>;
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Box::new(Error::Platform {
                text: text.chars().take(100).collect(),
            })
        };
        let word = |word: &&str| {
            !word.is_empty()
                && word
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let words: Vec<&str> = text.split('/').collect();
        if words.len() > 3 || !words.iter().all(word) {
            return Err(bad());
        }
        match words.as_slice() {
            [os, architecture] => Ok(Self {
                os: (*os).to_owned(),
                ..linux(architecture, None)
            }
            .normalized()),
            [os, architecture, variant] => Ok(Self {
                os: (*os).to_owned(),
                ..linux(architecture, Some(variant))
            }
            .normalized()),
            _ => Err(bad()),
        }
    }
}

/// The entry that fits `host` best. An entry that names no platform fits when nothing better does: its configuration decides.
pub fn choose<'a>(
    entries: &'a [Descriptor],
    host: &Platform,
    runs_32bit_arm: bool,
) -> Result<&'a Descriptor> {
    const UNNAMED: u32 = 1000;
    let rank = |entry: &Descriptor| match &entry.platform {
        Some(platform) => host.fit(platform, runs_32bit_arm),
        None => Some(UNNAMED),
    };
    // The first of equals wins, as an index is in order of preference.
    let best = entries
        .iter()
        .filter_map(|entry| Some((rank(entry)?, entry)))
        .min_by_key(|(rank, _)| *rank);
    match best {
        Some((_, entry)) => Ok(entry),
        None => Err(Error::WrongPlatform(mismatch(
            entries.iter().filter_map(|entry| entry.platform.as_ref()),
            host,
        ))
        .into()),
    }
}

/// Fails unless an image whose configuration says `image` runs on `host`.
///
/// Many a configuration for ARM carries no variant, whatever its index says: then it is the program's own build attributes that decide, when it
/// is started.
pub fn check(image: &Platform, host: &Platform, runs_32bit_arm: bool) -> Result<()> {
    let says_nothing = image.variant.as_deref().unwrap_or_default().is_empty();
    let oldest = Platform {
        variant: Some("v5".to_owned()),
        ..image.clone()
    };
    let could_run =
        || says_nothing && image.architecture == "arm" && host.fit(&oldest, runs_32bit_arm).is_some();
    match host.fit(image, runs_32bit_arm) {
        Some(_) => Ok(()),
        None if could_run() => Ok(()),
        None => Err(Error::WrongPlatform(mismatch([image].into_iter(), host)).into()),
    }
}

/// One sentence: what is offered, and what this board is.
fn mismatch<'a>(offered: impl Iterator<Item = &'a Platform>, host: &Platform) -> String {
    const SHOWN_MAX: usize = 12;
    let mut names: Vec<String> = Vec::new();
    for platform in offered.filter(|platform| platform.os != "unknown") {
        let name = platform.to_string();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let more = names.len().saturating_sub(SHOWN_MAX);
    names.truncate(SHOWN_MAX);
    let mut list = if names.is_empty() {
        "no platform at all".to_owned()
    } else {
        names.join(", ")
    };
    if more > 0 {
        list.push_str(&format!(" and {more} more"));
    }
    format!("the image is built for {list}, but this board is {host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn a_board_is_recognised_from_its_facts() {
        let pi1 = "model name\t: ARMv6-compatible processor rev 7 (v6l)\nCPU architecture: 7\n";
        let (with_vfp, without) = (0x0000_7dd7, 0x0000_0097);
        for (binary, machine, cpuinfo, cpu, hwcap, expected) in [
            ("x86_64", "x86_64", "", "x86_64", 1, "linux/amd64"),
            ("aarch64", "aarch64", "", "aarch64", 1, "linux/arm64/v8"),
            ("arm", "armv6l", pi1, "", 0, "linux/arm/v6"),
            ("arm", "armv7l", "CPU architecture: 7\n", "", 0, "linux/arm/v7"),
            ("arm", "aarch64", "CPU architecture: 8\n", "", 0, "linux/arm/v8"),
            ("arm", "unknown", pi1, "", 0, "linux/arm/v6"),
            ("arm", "unknown", "CPU architecture: 7\n", "", 0, "linux/arm/v7"),
            ("arm", "unknown", "", "", 0, "linux/arm/v6"),
            ("arm", "armv6l", pi1, "v6l", with_vfp, "linux/arm/v6"),
            ("arm", "armv7l", pi1, "v7l", with_vfp, "linux/arm/v7"),
            // Where setarch(8) or an old container runtime has changed what uname says.
            ("arm", "armv6l", "", "v8l", with_vfp, "linux/arm/v8"),
            ("arm", "armv7l", "", "v6l", with_vfp, "linux/arm/v6"),
            // An ARMv7 core, or an ARMv5 one, that has no floating point.
            (
                "arm",
                "armv7l",
                "CPU architecture: 7\n",
                "v7l",
                without,
                "linux/arm/v5",
            ),
            ("arm", "armv5tejl", "", "v5l", without, "linux/arm/v5"),
        ] {
            let facts = HostFacts {
                binary,
                machine,
                cpuinfo,
                cpu,
                hwcap,
            };
            assert_eq!(facts.platform().to_string(), expected, "{facts:?}");
        }
    }

    #[test]
    fn choice_follows_containerds_rules() {
        let offers = |list: &[&str]| -> Vec<Descriptor> {
            let entry = |text: &&str| Descriptor {
                platform: Some(platform_raw(text)),
                ..Descriptor::of("m", text.as_bytes())
            };
            list.iter().map(entry).collect()
        };
        let all = [
            "linux/amd64",
            "linux/arm/v5",
            "linux/arm/v6",
            "linux/arm/v7",
            "linux/arm64/v8",
            "windows/amd64",
        ];
        for (host, runs_32bit, offered, expected) in [
            ("linux/arm/v7", false, &all[..], Some("linux/arm/v7")),
            ("linux/arm/v6", false, &all, Some("linux/arm/v6")),
            ("linux/arm/v6", false, &["linux/arm/v7", "linux/arm64"], None),
            (
                "linux/arm/v7",
                false,
                &["linux/arm/v5", "linux/arm/v6"],
                Some("linux/arm/v6"),
            ),
            ("linux/arm/v7", false, &["linux/arm"], Some("linux/arm")),
            ("linux/arm/v6", false, &["linux/arm"], None),
            ("linux/arm64", false, &["linux/arm/v7"], None),
            (
                "linux/arm64",
                true,
                &["linux/arm/v5", "linux/arm/v7"],
                Some("linux/arm/v7"),
            ),
            ("linux/arm64", true, &all, Some("linux/arm64/v8")),
            ("linux/arm64", true, &["linux/arm64"], Some("linux/arm64")),
            ("linux/arm64/v8", true, &["linux/arm64/v9"], None),
            ("linux/amd64", false, &["windows/amd64"], None),
            ("linux/amd64", false, &["linux/386", "linux/amd64/v3"], None),
        ] {
            let offers = offers(offered);
            let chosen = choose(&offers, &platform(host), runs_32bit)
                .ok()
                .map(platform_text);
            assert_eq!(chosen.as_deref(), expected, "{host} of {offered:?}");
        }
    }

    /// What `platforms.Only` of containerd takes, best first (its platformVector after Normalize).
    #[test]
    fn what_fits_and_what_fits_better_is_as_with_containerd() {
        for (host, runs_32bit, vector) in [
            ("linux/arm/v5", false, &["linux/arm/v5"][..]),
            ("linux/arm/v6", false, &["linux/arm/v6", "linux/arm/v5"]),
            ("linux/arm", false, &["linux/arm", "linux/arm/v6", "linux/arm/v5"]),
            (
                "linux/armhf",
                false,
                &["linux/arm/v7", "linux/armel", "linux/arm/v5"],
            ),
            (
                "linux/arm/8",
                false,
                &["linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"],
            ),
            (
                "linux/aarch64",
                true,
                &[
                    "linux/arm64",
                    "linux/arm/v8",
                    "linux/arm",
                    "linux/arm/v6",
                    "linux/arm/v5",
                ],
            ),
            (
                "linux/arm64/v8.2",
                false,
                &["linux/arm64/v8.2", "linux/arm64/v8.1", "linux/arm64"],
            ),
            (
                "linux/arm64/v9.1",
                false,
                &[
                    "linux/arm64/v9.1",
                    "linux/arm64/v9",
                    "linux/arm64/v8.6",
                    "linux/arm64/v8.5",
                    "linux/arm64/v8.4",
                    "linux/arm64",
                ],
            ),
            ("linux/amd64", false, &["linux/amd64/v1"]),
        ] {
            let fits: Vec<_> = vector
                .iter()
                .map(|image| platform(host).fit(&platform_raw(image), runs_32bit).unwrap())
                .collect();
            assert!(fits.is_sorted_by(|one, next| one < next), "{host}: {fits:?}");
        }
        for (host, image) in [
            ("linux/arm/v6", "linux/arm"),
            ("linux/arm64/v8.6", "linux/arm64/v9"),
            ("linux/arm64/v9", "linux/arm64/v8.6"),
            ("linux/arm/v8", "linux/arm64"),
        ] {
            assert_eq!(
                platform(host).fit(&platform_raw(image), true),
                None,
                "{image} on {host}"
            );
        }
    }

    #[test]
    fn a_configuration_without_a_variant_is_left_to_the_program_itself() {
        for (host, image, expected) in [
            ("linux/arm/v6", "linux/arm", true),
            ("linux/arm/v6", "linux/arm/v7", false),
            ("linux/arm/v6", "linux/arm64", false),
            ("linux/arm/v6", "windows/arm", false),
            ("linux/arm64", "linux/arm", false),
            ("linux/amd64", "linux/arm", false),
        ] {
            let found = check(&platform_raw(image), &platform(host), false).is_ok();
            assert_eq!(found, expected, "{image} on {host}");
        }
        assert!(check(&platform_raw("linux/arm"), &platform("linux/arm64"), true).is_ok());
    }

    fn platform_raw(text: &str) -> Platform {
        let words: Vec<&str> = text.split('/').collect();
        Platform {
            os: words[0].to_owned(),
            ..linux(words[1], words.get(2).copied())
        }
    }

    fn platform_text(entry: &Descriptor) -> String {
        entry.platform.as_ref().unwrap().to_string()
    }

    #[test]
    fn a_miss_is_one_plain_sentence() {
        let entry = |text| Descriptor {
            platform: Some(platform(text)),
            ..Descriptor::of("m", b"")
        };
        let entries = [
            entry("linux/amd64"),
            entry("windows/amd64"),
            entry("unknown/unknown"),
        ];
        let error = choose(&entries, &platform("linux/arm/v6"), false)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "the image is built for linux/amd64, windows/amd64, but this board is linux/arm/v6"
        );
    }

    #[test]
    fn an_entry_without_a_platform_is_the_last_choice() {
        let named = Descriptor {
            platform: Some(platform("linux/amd64")),
            ..Descriptor::of("m", b"1")
        };
        let entries = [Descriptor::of("m", b"2"), named.clone()];
        assert_eq!(choose(&entries, &platform("linux/amd64"), false).unwrap(), &named);
        assert_eq!(
            choose(&entries, &platform("linux/arm/v7"), false).unwrap(),
            &entries[0]
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,40}") {
            if let Ok(platform) = text.parse::<Platform>() {
                proptest::prop_assert_eq!(platform.to_string().parse::<Platform>().unwrap(), platform);
            }
        }
    }
}
