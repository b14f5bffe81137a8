//! Tables for people.

use super::units::bytes_text;
use crate::view::{DeviceView, ImageView, Wanted};

/// `devices`.
pub fn devices(devices: &[DeviceView], now_s: u64) -> String {
    let mut rows = vec![
        [
            "DEVICE",
            "STATUS",
            "SEEN",
            "PLATFORM",
            "AGENT",
            "GENERATION",
            "CONVERGED",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    rows.extend(devices.iter().map(|device| {
        vec![
            device.name.to_string(),
            if device.online { "online" } else { "offline" }.into(),
            match device.seen_s {
                _ if device.online => "now".into(),
                Some(seen_s) => age(now_s.saturating_sub(seen_s)),
                None => "never".into(),
            },
            device.platform.clone().unwrap_or_else(|| "-".into()),
            device.agent_version.clone().unwrap_or_else(|| "-".into()),
            format!("{}/{}", device.generation_reported, device.generation_wanted),
            if device.converged { "yes" } else { "no" }.into(),
        ]
    }));
    aligned(&rows) + &refusals(devices) + &troubles(devices)
}

/// `status`.
pub fn status(devices: &[DeviceView]) -> String {
    let header = ["DEVICE", "APP", "IMAGE", "STATE", "RESTARTS", "DETAIL"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for device in devices {
        rows.extend(device.apps.iter().map(|app| {
            let mut state = app.state.clone();
            if let Some(code) = app.exit_code {
                state += &format!(" ({code})");
            }
            if let (Some(done), Some(total)) = (app.done_bytes, app.total_bytes) {
                state += &format!(" {} of {}", bytes_text(done), bytes_text(total));
            }
            if app.wanted == Wanted::Stopped && app.state != "stopped" {
                state += ", to be stopped";
            }
            let away = if device.online {
                ""
            } else {
                "device offline, state as last reported"
            };
            let detail = [app.detail.as_str(), away]
                .into_iter()
                .filter(|text| !text.is_empty());
            vec![
                device.name.to_string(),
                app.name.to_string(),
                if app.image.is_empty() {
                    "-".into()
                } else {
                    app.image.clone()
                },
                state,
                app.restarts.to_string(),
                detail.collect::<Vec<_>>().join("; "),
            ]
        }));
    }
    aligned(&rows) + &refusals(devices) + &troubles(devices)
}

/// `images ls`.
pub fn images(images: &[ImageView]) -> String {
    let mut rows = vec![
        ["IMAGE", "SIZE", "PLATFORMS", "DIGEST"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(images.iter().map(|image| {
        vec![
            image.reference.clone(),
            bytes_text(image.bytes),
            image.platforms.join(" "),
            image.digest.chars().take("sha256:".len() + 12).collect(),
        ]
    }));
    aligned(&rows)
}

fn refusals(devices: &[DeviceView]) -> String {
    let refused = devices
        .iter()
        .filter_map(|device| Some((device, device.refusal.as_ref()?)));
    refused
        .map(|(device, refusal)| format!("\n{} rejected {}: {}", device.name, refusal.of, refusal.detail))
        .collect()
}

/// What each device says of itself, as it last could.
fn troubles(devices: &[DeviceView]) -> String {
    let said = |device: &DeviceView| {
        let line = |trouble: &String| format!("\n{}: {trouble}", device.name);
        device.troubles.iter().map(line).collect::<String>()
    };
    devices.iter().map(said).collect()
}

fn age(seconds: u64) -> String {
    match seconds {
        0..=1 => "now".into(),
        2..=119 => format!("{seconds} s ago"),
        120..=7199 => format!("{} min ago", seconds / 60),
        7200..=172_799 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// Columns as wide as their widest cell, two spaces between.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
