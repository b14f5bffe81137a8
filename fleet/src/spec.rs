//! How to run an app, as the operator says it: parsed once, bounded as the wire bounds it.

use punnet_protocol::{
    App, ImageSource, Limits, Mount, Name, Network, RestartPolicy, Strings, StringsError, Text, clipped,
};
use serde::{Deserialize, Serialize};

use crate::db::apps::Chosen;
use crate::error::{Error, Result};

/// A container's stop time when nothing is said; Docker's.
pub const STOP_TIMEOUT_MS_DEFAULT: u32 = 10_000;

/// How long a new version must run to count as good when nothing is said: most start-up failures show by then.
pub const SOAK_MS_DEFAULT: u32 = 5_000;

/// Everything of an app but its name and image. Stored as JSON, sent to the API as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AppSpec {
    /// Replaces the image's entrypoint when not empty.
    pub entrypoint: Vec<String>,
    /// Replaces the image's command when not empty.
    pub args: Vec<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// `none` or `host`.
    pub network: NetworkName,
    /// `never`, `on-failure` or `always`.
    pub restart: RestartName,
    /// Upper limit of memory, bytes.
    pub memory_bytes_max: Option<u64>,
    /// Upper limit of processes.
    pub pids_max: Option<u32>,
    /// Upper limit of CPU, thousandths of one.
    pub cpu_millis_max: Option<u32>,
    /// Device classes.
    pub device_classes: Vec<String>,
    /// Bind mounts.
    pub mounts: Vec<MountSpec>,
    /// No writable layer.
    pub read_only: bool,
    /// Between the stop signal and SIGKILL.
    pub stop_timeout_ms: u32,
    /// How long a new version must run before it counts as good.
    pub soak_ms: u32,
}

impl Default for AppSpec {
    fn default() -> Self {
        Self {
            entrypoint: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            network: NetworkName::None,
            restart: RestartName::Always,
            memory_bytes_max: None,
            pids_max: None,
            cpu_millis_max: None,
            device_classes: Vec::new(),
            mounts: Vec::new(),
            read_only: false,
            stop_timeout_ms: STOP_TIMEOUT_MS_DEFAULT,
            soak_ms: SOAK_MS_DEFAULT,
        }
    }
}

/// [`Network`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkName {
    /// Loopback only
    None,
    /// The device's own network
    Host,
}

/// [`RestartPolicy`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RestartName {
    /// It stays ended
    Never,
    /// Started again when it failed
    OnFailure,
    /// Started again however it ended
    Always,
}

/// A bind mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountSpec {
    /// Absolute path on the device.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    /// The container cannot write to it.
    #[serde(default)]
    pub read_only: bool,
}

impl std::str::FromStr for MountSpec {
    type Err = String;

    /// `SRC:DST` or `SRC:DST:ro`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let (Some(source), Some(target), mode, None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("a mount is SRC:DST or SRC:DST:ro".into());
        };
        let read_only = match mode {
            None | Some("rw") => false,
            Some("ro") => true,
            Some(other) => return Err(format!("'{other}' is neither ro nor rw")),
        };
        if !source.starts_with('/') || !target.starts_with('/') {
            return Err("both paths of a mount must be absolute".into());
        }
        Ok(Self {
            source: source.into(),
            target: target.into(),
            read_only,
        })
    }
}

impl AppSpec {
    /// The app as it goes into a desired state.
    pub fn to_app(&self, name: &Name, image: &str, chosen: &Chosen) -> Result<App> {
        Ok(App {
            name: name.clone(),
            image: ImageSource {
                reference: clipped(image),
                manifest: chosen.digest,
                manifest_bytes: chosen.manifest_bytes,
                total_bytes: chosen.total_bytes,
            },
            entrypoint: strings("entrypoint", &self.entrypoint)?,
            args: strings("arguments", &self.args)?,
            env: self.env()?,
            network: match self.network {
                NetworkName::None => Network::None,
                NetworkName::Host => Network::Host,
            },
            restart: match self.restart {
                RestartName::Never => RestartPolicy::Never,
                RestartName::OnFailure => RestartPolicy::OnFailure,
                RestartName::Always => RestartPolicy::Always,
            },
            limits: Limits {
                memory_bytes_max: self.memory_bytes_max,
                pids_max: self.pids_max,
                cpu_millis_max: self.cpu_millis_max,
            },
            device_classes: self
                .device_classes
                .iter()
                .map(|class| text("device class", class))
                .collect::<Result<Vec<_>>>()
                .and_then(|classes| bounded("device classes", &classes))?,
            mounts: self
                .mounts
                .iter()
                .map(mount)
                .collect::<Result<Vec<_>>>()
                .and_then(|mounts| bounded("mounts", &mounts))?,
            read_only: self.read_only,
            stop_timeout_ms: self.stop_timeout_ms,
            soak_ms: self.soak_ms,
        })
    }

    fn env<const N: usize>(&self) -> Result<Strings<N>> {
        if let Some(bad) = self
            .env
            .iter()
            .find(|entry| !entry.contains('=') || entry.starts_with('='))
        {
            return Err(Error::invalid(format!("environment '{bad}'"), "write KEY=VALUE"));
        }
        strings("environment", &self.env)
    }
}

fn mount(spec: &MountSpec) -> Result<Mount> {
    if !spec.source.starts_with('/') || !spec.target.starts_with('/') {
        return Err(Error::invalid(
            format!("mount {}:{}", spec.source, spec.target),
            "both paths must be absolute",
        ));
    }
    Ok(Mount {
        source: text("mount source", &spec.source)?,
        target: text("mount target", &spec.target)?,
        read_only: spec.read_only,
    })
}

fn strings<const N: usize>(what: &str, strings: &[String]) -> Result<Strings<N>> {
    Strings::new(strings).map_err(|why: StringsError| Error::invalid(what, why))
}

fn text<const N: usize>(what: &str, value: &str) -> Result<Text<N>> {
    Text::try_from(value)
        .map_err(|_| Error::invalid(format!("{what} '{value}'"), format!("longer than {N} bytes")))
}

fn bounded<T: Clone, const N: usize>(what: &str, values: &[T]) -> Result<heapless::Vec<T, N>> {
    heapless::Vec::from_slice(values).map_err(|_| Error::invalid(what, format!("more than {N}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_two_absolute_paths_and_maybe_a_mode() {
        let parse = |text: &str| text.parse::<MountSpec>();
        assert_eq!(
            parse("/srv:/data:ro").unwrap(),
            MountSpec {
                source: "/srv".into(),
                target: "/data".into(),
                read_only: true
            }
        );
        assert!(!parse("/srv:/data").unwrap().read_only);
        for bad in [
            "",
            "/srv",
            "srv:/data",
            "/srv:data",
            "/srv:/data:rx",
            "/a:/b:ro:x",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_does_not_fit_the_wire_is_named() {
        let chosen = Chosen {
            digest: punnet_protocol::Digest([0; 32]),
            manifest_bytes: 1,
            total_bytes: 1,
        };
        let name: Name = "web".parse().unwrap();
        let check = |spec: AppSpec, expected: &str| {
            let error = spec.to_app(&name, "web", &chosen).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(
            AppSpec {
                args: vec!["x".repeat(2000)],
                ..AppSpec::default()
            },
            "arguments: ",
        );
        check(
            AppSpec {
                args: vec!["a\0b".into()],
                ..AppSpec::default()
            },
            "NUL",
        );
        check(
            AppSpec {
                env: vec!["NOVALUE".into()],
                ..AppSpec::default()
            },
            "environment 'NOVALUE': write KEY=VALUE",
        );
        check(
            AppSpec {
                device_classes: vec!["x".repeat(33)],
                ..AppSpec::default()
            },
            "longer than 32 bytes",
        );
        check(
            AppSpec {
                device_classes: vec!["gpio".into(); 9],
                ..AppSpec::default()
            },
            "device classes: more than 8",
        );
        let mounts = vec![MountSpec {
            source: "rel".into(),
            target: "/x".into(),
            read_only: false,
        }];
        check(
            AppSpec {
                mounts,
                ..AppSpec::default()
            },
            "absolute",
        );
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(serde_json::from_str::<AppSpec>(r#"{"privileged":true}"#).is_err());
    }

    /// A board's own app files (docs/apps.md) say the same with the same words.
    #[test]
    fn app_files_have_the_same_form_and_the_same_defaults() {
        let spec = AppSpec {
            mounts: vec!["/srv:/data:ro".parse().unwrap()],
            env: vec!["A=1".into()],
            memory_bytes_max: Some(1),
            ..AppSpec::default()
        };
        let mut json = serde_json::to_value(&spec).unwrap();
        let mut keys: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        keys.extend(["image", "after"].map(String::from));
        keys.sort();
        let mut known = punnet_apps::KEYS.to_vec();
        known.sort_unstable();
        assert_eq!(keys, known);
        json["image"] = "web".into();
        let name: Name = "web".parse().unwrap();
        let app = punnet_apps::App::parse(&name, &json.to_string()).unwrap();
        assert_eq!(
            (app.stop_timeout_ms, app.soak_ms),
            (STOP_TIMEOUT_MS_DEFAULT, SOAK_MS_DEFAULT)
        );
        assert_eq!(app.restart, punnet_apps::Restart::Always);
        let alone = punnet_apps::App::parse(
            &name,
            "image: web\nenv: [A=1]\nmemory_bytes_max: 1\nmounts: [{source: /srv, target: /data, read_only: true}]\n",
        );
        assert_eq!(alone.unwrap(), app);
    }
}
