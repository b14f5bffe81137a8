//! Containers and images as our own binary shows and makes them.

use std::ffi::OsString;
use std::path::PathBuf;

use punnet_json::FromJson;
use punnet_protocol::{App, Digest, Name, Network};

use crate::core::{Seen, Status};

/// Label that says which app a container belongs to.
const LABEL_APP: &str = "punnet.app";
/// Label that says what exactly it was made from.
const LABEL_SPEC: &str = "punnet.spec";

/// A container of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub seen: Seen,
    pub log_dir: PathBuf,
}

/// What `ps --all --json` says.
#[derive(Debug, Default, PartialEq)]
pub struct Listing {
    /// Containers of ours.
    pub rows: Vec<Row>,
    /// Names of the others.
    pub others: Vec<String>,
}

impl Listing {
    pub fn of(&self, app: &Name) -> Option<&Row> {
        self.rows.iter().find(|row| row.seen.app == *app)
    }
}

#[derive(FromJson)]
struct RawContainer {
    name: String,
    status: String,
    pid: Option<u32>,
    exit_code: Option<i32>,
    #[json(default)]
    labels: std::collections::BTreeMap<String, String>,
    #[json(default)]
    log_dir: PathBuf,
}

#[derive(FromJson)]
struct RawImage {
    manifest: String,
}

/// Reads `punnet ps --all --json`.
pub fn parse_ps(json: &[u8]) -> Result<Listing, String> {
    let raw: Vec<RawContainer> =
        punnet_json::from_slice(json).map_err(|error| format!("ps --json: {error}"))?;
    let mut listing = Listing::default();
    for container in raw {
        // A container is ours when its label names it; a label alone would let two containers be one app.
        let app = container
            .labels
            .get(LABEL_APP)
            .filter(|label| **label == container.name);
        let Some(app) = app.and_then(|app| app.parse::<Name>().ok()) else {
            listing.others.push(container.name);
            continue;
        };
        let status = match container.status.as_str() {
            "created" => Status::Created,
            "running" | "paused" => Status::Running,
            _ => Status::Stopped,
        };
        let spec = container
            .labels
            .get(LABEL_SPEC)
            .and_then(|spec| spec.parse().ok());
        let (pid, exit_code) = (container.pid.unwrap_or(0), container.exit_code);
        let seen = Seen {
            app,
            spec,
            status,
            pid,
            exit_code,
            out_of_memory: false,
        };
        listing.rows.push(Row {
            seen,
            log_dir: container.log_dir,
        });
    }
    Ok(listing)
}

/// Reads `punnet images --json`.
pub fn parse_images(json: &[u8]) -> Result<Vec<Digest>, String> {
    let raw: Vec<RawImage> =
        punnet_json::from_slice(json).map_err(|error| format!("images --json: {error}"))?;
    Ok(raw
        .iter()
        .filter_map(|image| image.manifest.parse().ok())
        .collect())
}

/// The arguments of `punnet start` for an app of such a desired state.
pub fn start_args(app: &Name, fleet_key: &[u8; 32]) -> [String; 4] {
    [
        "start".into(),
        "--vouched-by".into(),
        hex(fleet_key),
        app.to_string(),
    ]
}

fn hex(key: &[u8; 32]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The arguments of `punnet create` for an app, which a desired state has that this key has signed.
pub fn create_args(app: &App, spec: &Digest, fleet_key: &[u8; 32]) -> Vec<OsString> {
    let mut args: Vec<String> = vec!["create".into()];
    let mut option = |name: &str, value: String| args.extend([name.to_owned(), value]);
    option("--name", app.name.to_string());
    option("--label", format!("{LABEL_APP}={}", app.name));
    option("--label", format!("{LABEL_SPEC}={spec}"));
    let network = match app.network {
        Network::None => "none",
        Network::Host => "host",
    };
    option("--network", network.into());
    if let Some(bytes) = app.limits.memory_bytes_max {
        option("--memory", bytes.to_string());
    }
    if let Some(pids) = app.limits.pids_max {
        option("--pids-limit", pids.to_string());
    }
    if let Some(millis) = app.limits.cpu_millis_max {
        option("--cpus", format!("{}.{:03}", millis / 1000, millis % 1000));
    }
    for pair in &app.env {
        option("--env", pair.to_owned());
    }
    for class in &app.device_classes {
        option("--device-class", class.as_str().to_owned());
    }
    for mount in &app.mounts {
        let mode = if mount.read_only { ":ro" } else { "" };
        option("--volume", format!("{}:{}{mode}", mount.source, mount.target));
    }
    option("--vouched-by", hex(fleet_key));
    option("--stop-timeout", app.stop_timeout_ms.div_ceil(1000).to_string());
    let mut entrypoint = app.entrypoint.iter();
    if let Some(program) = entrypoint.next() {
        option("--entrypoint", program.to_owned());
    }
    if app.read_only {
        args.push("--read-only".into());
    }
    args.push(app.image.manifest.to_string());
    // As with Docker, an entrypoint given puts the image's command out of force: what is left of ours comes first.
    args.extend(entrypoint.chain(&app.args).map(str::to_owned));
    args.into_iter().map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    use punnet_protocol::{ImageSource, Limits, Mount, RestartPolicy, Strings, clipped};

    use super::*;

    #[test]
    fn ps_tells_ours_from_others() {
        let spec = Digest([7; 32]);
        let json = format!(
            r#"[{{"id":"web","name":"web","image":"x","manifest":"m","status":"running","pid":42,"exit_code":null,
                  "labels":{{"punnet.app":"web","punnet.spec":"{spec}"}},"log_dir":"/run/x"}},
                {{"id":"y","name":"y","status":"stopped","pid":0,"exit_code":3,"labels":{{"punnet.app":"web"}}}},
                {{"id":"z","name":"z","status":"created","pid":null,"exit_code":null,"labels":{{}},"unknown":1}}]"#
        );
        let listing = parse_ps(json.as_bytes()).unwrap();
        let seen = Seen {
            app: "web".parse().unwrap(),
            spec: Some(spec),
            status: Status::Running,
            pid: 42,
            exit_code: None,
            out_of_memory: false,
        };
        assert_eq!(
            listing.rows,
            [Row {
                seen,
                log_dir: "/run/x".into()
            }]
        );
        assert_eq!(listing.others, ["y", "z"]);
        assert!(parse_ps(b"nonsense").is_err());
    }

    #[test]
    fn images_are_known_by_manifest() {
        let json = format!(
            r#"[{{"reference":"a","manifest":"{}","size_bytes":1}}]"#,
            Digest([9; 32])
        );
        assert_eq!(parse_images(json.as_bytes()).unwrap(), [Digest([9; 32])]);
    }

    #[test]
    fn every_field_of_an_app_reaches_create() {
        let app = App {
            name: "web".parse().unwrap(),
            image: ImageSource {
                reference: clipped("r"),
                manifest: Digest([9; 32]),
                manifest_bytes: 1,
                total_bytes: 1,
            },
            entrypoint: Strings::new(["/bin/a", "-x"]).unwrap(),
            args: Strings::new(["one", ""]).unwrap(),
            env: Strings::new(["A=b c"]).unwrap(),
            network: Network::Host,
            restart: RestartPolicy::Never,
            limits: Limits {
                memory_bytes_max: Some(1024),
                pids_max: Some(9),
                cpu_millis_max: Some(1250),
            },
            device_classes: [clipped("gpio")].into_iter().collect(),
            mounts: [("/a", "/b", true), ("/c", "/d", false)]
                .map(|(source, target, read_only)| Mount {
                    source: clipped(source),
                    target: clipped(target),
                    read_only,
                })
                .into_iter()
                .collect(),
            read_only: true,
            stop_timeout_ms: 1001,
            soak_ms: 0,
        };
        let args: Vec<_> = create_args(&app, &Digest([7; 32]), &[0xa; 32])
            .into_iter()
            .map(|arg| arg.into_string().unwrap())
            .collect();
        let (spec, image, key) = (Digest([7; 32]), Digest([9; 32]), "0a".repeat(32));
        let expected = format!(
            "create|--name|web|--label|punnet.app=web|--label|punnet.spec={spec}|--network|host|--memory|1024|\
             --pids-limit|9|--cpus|1.250|--env|A=b c|--device-class|gpio|--volume|/a:/b:ro|--volume|/c:/d|\
             --vouched-by|{key}|--stop-timeout|2|--entrypoint|/bin/a|--read-only|{image}|-x|one|"
        );
        assert_eq!(args.join("|"), expected);
    }
}
