//! Where a deployment stands, read from what a device has reported: what `deploy --wait` shows and ends with.

use punnet_protocol::Name;

use crate::view::{AppView, DeviceView, Wanted};

/// What became of a deployment, as far as a device has reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not there yet; what it does.
    Doing(String),
    /// It runs, or has run to its end as it should.
    Done(String),
    /// It will not get there.
    Failed(String),
}

impl DeviceView {
    /// Where the deployment of `app` stands that became part of `generation`.
    pub fn progress(&self, app: &Name, generation: u64) -> Progress {
        // What had no generation, as garbage has not, says nothing about this one.
        if let Some(refusal) = &self.refusal
            && refusal.generation.is_some_and(|refused| refused >= generation)
        {
            return Progress::Failed(format!("it rejected {}: {}", refusal.of, refusal.detail));
        }
        let Some(view) = self.apps.iter().find(|view| view.name == *app) else {
            return Progress::Failed("the app was removed meanwhile".into());
        };
        match (view.wanted, view.state.as_str()) {
            (Wanted::Stopped | Wanted::Absent, _) => {
                return Progress::Failed("the app was stopped meanwhile".into());
            }
            (_, "impossible") => return Progress::Failed(view.detail.clone()),
            (_, "pending") => return Progress::Doing(view.detail.clone()),
            _ => {}
        }
        if self.generation_reported < generation {
            // What could not be read or trusted has no generation: it may be this deployment, and it may be somebody else's garbage.
            let text = match &self.refusal {
                Some(refusal) => format!("it rejected {}: {}", refusal.of, refusal.detail),
                None if self.online => "waiting for its answer".into(),
                None => "offline; it gets it when it is back".into(),
            };
            return Progress::Doing(text);
        }
        // A failed version is reported with the manifest that runs again in its place.
        if view.state == "rolled-back" {
            return Progress::Failed(with_detail(
                "it failed and the version before it runs again",
                &view.detail,
            ));
        }
        if view.manifest_reported != view.manifest_wanted {
            return Progress::Doing(with_detail("waiting", &view.detail));
        }
        view.progress()
    }
}

impl AppView {
    fn progress(&self) -> Progress {
        let exit_code = self.exit_code.unwrap_or_default();
        match self.state.as_str() {
            // Also when the image is the same: the process of the settings before is not the one that was asked for.
            "running" | "exited" | "backing-off" if !self.as_wanted => {
                Progress::Doing("the version before it is to be replaced".into())
            }
            "running" => Progress::Done(format!("running as process {}", self.pid.unwrap_or_default())),
            "exited" if exit_code == 0 => Progress::Done("it ran and ended with exit code 0".into()),
            "exited" | "backing-off" => Progress::Failed(with_detail(
                &format!("its process ended with exit code {exit_code}"),
                &self.detail,
            )),
            "failed" => Progress::Failed(if self.detail.is_empty() {
                "it failed".into()
            } else {
                self.detail.clone()
            }),
            "fetching" => {
                let (done, total) = (
                    self.done_bytes.unwrap_or_default(),
                    self.total_bytes.unwrap_or_default(),
                );
                Progress::Doing(format!(
                    "fetching {} of {} KiB",
                    done / 1024,
                    total.div_ceil(1024)
                ))
            }
            other => Progress::Doing(with_detail(other, &self.detail)),
        }
    }
}

fn with_detail(text: &str, detail: &str) -> String {
    if detail.is_empty() {
        text.into()
    } else {
        format!("{text}: {detail}")
    }
}
