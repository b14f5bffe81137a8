//! What the API says: the same types on both of its sides.

use std::collections::BTreeMap;

use punnet_protocol::{AppReport, AppState, Name};
use serde::{Deserialize, Serialize};

use crate::db::apps::AppRow;
use crate::db::images::Image;
use crate::desired;
use crate::platform;
use crate::spec::AppSpec;
use crate::state::{Device, Refusal, printable};

/// `GET /v1/ping`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pong {
    /// Version of the controller.
    pub version: String,
    /// The fleet's name.
    pub fleet: String,
    /// Where the broker is.
    pub broker: String,
    /// The controller is connected to it.
    pub connected: bool,
    /// Why not, when it was tried.
    pub broker_error: Option<String>,
    /// Messages that were ignored, by reason.
    pub ignored: BTreeMap<String, u64>,
}

/// `GET /v1/devices`: one entry, and all of `GET /v1/devices/NAME`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceView {
    /// Its name.
    pub name: Name,
    /// It is connected to the broker.
    pub online: bool,
    /// Its newest session.
    pub session: u64,
    /// `linux/arm/v7`; `None` before its first report.
    pub platform: Option<String>,
    /// Version of its agent.
    pub agent_version: Option<String>,
    /// Name of its board.
    pub board: Option<String>,
    /// Its kernel.
    pub kernel: Option<String>,
    /// Its RAM.
    pub memory_bytes: Option<u64>,
    /// Free bytes for images.
    pub disk_free_bytes: Option<u64>,
    /// Last message, Unix seconds.
    pub seen_s: Option<u64>,
    /// Of the newest desired state.
    pub generation_wanted: u64,
    /// Of the newest that the device has accepted.
    pub generation_reported: u64,
    /// It runs what it shall run.
    pub converged: bool,
    /// What it rejected.
    pub refusal: Option<Refusal>,
    /// What is wrong with the device itself, as it says: a sentence each.
    #[serde(default)]
    pub troubles: Vec<String>,
    /// Its apps: wanted ones and those still there.
    pub apps: Vec<AppView>,
}

/// One app of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppView {
    /// Its name.
    pub name: Name,
    /// Reference of its image.
    pub image: String,
    /// What the operator wants.
    pub wanted: Wanted,
    /// Of the desired state that last changed it.
    pub generation: u64,
    /// The manifest wanted; `None` until the device's platform is known.
    pub manifest_wanted: Option<String>,
    /// The manifest reported.
    pub manifest_reported: Option<String>,
    /// Its container was made from these very settings, not from those of a version before.
    pub as_wanted: bool,
    /// One word: running, fetching, failed, ...; `unknown` before the first report.
    pub state: String,
    /// Exit code of `exited` and `backing-off`.
    pub exit_code: Option<i32>,
    /// Process id of `running`, on the device.
    pub pid: Option<u32>,
    /// Bytes here, of `fetching`.
    pub done_bytes: Option<u64>,
    /// Bytes in all, of `fetching`.
    pub total_bytes: Option<u64>,
    /// Starts after the first.
    pub restarts: u32,
    /// Why it is so.
    pub detail: String,
}

/// What the operator wants of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// It shall run.
    Running,
    /// It shall not run, but stay listed.
    Stopped,
    /// It is not listed; the device has not removed it yet.
    Absent,
}

/// `GET /v1/images`: one entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageView {
    /// Its reference.
    pub reference: String,
    /// Digest of its index or manifest.
    pub digest: String,
    /// `linux/amd64`, ...
    pub platforms: Vec<String>,
    /// All its blobs.
    pub bytes: u64,
    /// When it was added, Unix seconds.
    pub added_s: u64,
}

/// `POST /v1/deploy`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// Name of the app.
    pub app: Name,
    /// Reference in the image store.
    pub image: String,
    /// Which devices; every enrolled one when `None`.
    pub devices: Option<Vec<Name>>,
    /// How to run it.
    #[serde(default)]
    pub spec: AppSpec,
}

/// `POST /v1/apps`: start, stop or remove an app.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppRequest {
    /// Name of the app.
    pub app: Name,
    /// Which device.
    pub device: Name,
    /// What to do.
    pub change: AppChange,
}

/// What [`AppRequest`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppChange {
    /// Into the desired state.
    Start,
    /// Out of the desired state, but listed.
    Stop,
    /// Out of both.
    Remove,
    /// Stopped and started once, by a command.
    Restart,
}

/// What a change led to for one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Which device.
    pub device: Name,
    /// The generation that has it.
    pub generation: u64,
    /// The manifest chosen; `None` until the device's platform is known.
    pub manifest: Option<String>,
}

/// The body of every error.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong, with its causes.
    pub error: String,
}

/// A device with its apps.
pub fn device(name: Name, device: &Device, rows: &[AppRow]) -> DeviceView {
    let reported = device.reported.as_ref();
    let board = reported.map(|reported| &reported.board);
    let reports: &[AppReport] = reported.map_or(&[], |reported| &reported.apps);
    let report_of = |name: &Name| reports.iter().find(|report| report.name == *name);
    let mut apps: Vec<AppView> = rows
        .iter()
        .map(|row| wanted_app(row, report_of(&row.name)))
        .collect();
    let absent = reports
        .iter()
        .filter(|report| !rows.iter().any(|row| row.name == report.name));
    apps.extend(absent.map(absent_app));
    DeviceView {
        name,
        online: device.online,
        session: device.session,
        platform: board.map(|board| platform::arch_name(board.arch).into()),
        agent_version: board.map(|board| printable(&board.agent_version)),
        board: board.map(|board| printable(&board.board)),
        kernel: board.map(|board| printable(&board.kernel)),
        memory_bytes: board.map(|board| board.memory_bytes),
        disk_free_bytes: board.map(|board| board.disk_free_bytes),
        seen_s: device.seen_s,
        generation_wanted: device.generation,
        generation_reported: reported.map_or(0, |reported| reported.generation),
        converged: device.converged() && rows.iter().all(|row| row.problem.is_none()),
        refusal: device.refusal.clone(),
        troubles: device.troubles.iter().map(|text| printable(text)).collect(),
        apps,
    }
}

/// An image.
pub fn image(image: &Image) -> ImageView {
    ImageView {
        reference: image.reference.clone(),
        digest: image.root.to_string(),
        platforms: image
            .manifests
            .iter()
            .map(|manifest| manifest.platform.to_string())
            .collect(),
        bytes: image.bytes_total,
        added_s: image.added_s,
    }
}

fn wanted_app(row: &AppRow, report: Option<&AppReport>) -> AppView {
    let mut view = AppView {
        name: row.name.clone(),
        image: row.image.clone(),
        wanted: if row.running {
            Wanted::Running
        } else {
            Wanted::Stopped
        },
        generation: row.generation,
        manifest_wanted: row.chosen.map(|chosen| chosen.digest.to_string()),
        manifest_reported: None,
        as_wanted: false,
        state: if row.running {
            "unknown".into()
        } else {
            "stopped".into()
        },
        exit_code: None,
        pid: None,
        done_bytes: None,
        total_bytes: None,
        restarts: 0,
        detail: String::new(),
    };
    if let Some(report) = report {
        view.report(report);
        view.as_wanted = desired::spec_digest(row) == Some(report.spec);
    }
    if let Some(problem) = &row.problem {
        view.state = "impossible".into();
        view.detail.clone_from(problem);
    } else if row.running && row.chosen.is_none() {
        view.state = "pending".into();
        view.detail = "the device has not reported its platform yet".into();
    }
    view
}

fn absent_app(report: &AppReport) -> AppView {
    let mut view = AppView {
        name: report.name.clone(),
        image: String::new(),
        wanted: Wanted::Absent,
        generation: 0,
        manifest_wanted: None,
        manifest_reported: None,
        as_wanted: false,
        state: String::new(),
        exit_code: None,
        pid: None,
        done_bytes: None,
        total_bytes: None,
        restarts: 0,
        detail: String::new(),
    };
    view.report(report);
    view
}

impl AppView {
    fn report(&mut self, report: &AppReport) {
        self.manifest_reported = Some(report.manifest.to_string());
        self.restarts = report.restarts;
        self.detail = printable(&report.detail);
        let word = match report.state {
            AppState::Waiting => "waiting",
            AppState::Fetching {
                done_bytes,
                total_bytes,
            } => {
                (self.done_bytes, self.total_bytes) = (Some(done_bytes), Some(total_bytes));
                "fetching"
            }
            AppState::Importing => "importing",
            AppState::Starting => "starting",
            AppState::Running { pid } => {
                self.pid = Some(pid);
                "running"
            }
            AppState::Exited { code } => {
                self.exit_code = Some(code);
                "exited"
            }
            AppState::BackingOff { code, .. } => {
                self.exit_code = Some(code);
                "backing-off"
            }
            AppState::Failed => "failed",
            AppState::RolledBack => "rolled-back",
            AppState::Stopping => "stopping",
        };
        self.state = word.into();
    }
}
