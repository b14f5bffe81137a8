//! How far a transfer is: on a terminal a bar with rate and time left, in JSON an event a line, elsewhere a line for each layer.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use punnet_images::registry::Notice;
use punnet_images::store::Progress;
use punnet_json::{Value, json};

use super::images::print_json;

/// Between two pictures of the same transfer.
const PERIOD: Duration = Duration::from_millis(200);
/// Characters of the bar.
const BAR_WIDTH: u64 = 24;

/// Where progress goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A line of standard error that changes.
    Bar,
    /// A line of standard error for each layer.
    Lines,
    /// A line of standard output for each event.
    Json,
    /// Nowhere.
    Nothing,
}

impl Shape {
    /// JSON when asked for; a bar when somebody looks.
    pub fn choose(json: bool, quiet: bool) -> Self {
        match (json, quiet) {
            (true, _) => Self::Json,
            (false, true) => Self::Nothing,
            (false, false) if std::io::stderr().is_terminal() => Self::Bar,
            (false, false) => Self::Lines,
        }
    }

    /// Tells why a transfer waits.
    pub fn notice(self, notice: &Notice) {
        let Notice::Waiting { pause, why } = notice;
        let (seconds, milliseconds) = (pause.as_secs(), pause.subsec_millis());
        let tenths = milliseconds / 100;
        match self {
            Self::Json => {
                let seconds = Value::Number(format!("{seconds}.{milliseconds:03}").into());
                print_json(&json!({ "event": "waiting", "seconds": seconds, "why": why }));
            }
            Self::Bar => eprintln!("\r\x1b[K{why}; trying again in {seconds}.{tenths} s"),
            Self::Lines => eprintln!("{why}; trying again in {seconds}.{tenths} s"),
            Self::Nothing => {}
        }
    }
}

/// Shows one transfer.
pub struct Shown {
    shape: Shape,
    began: Instant,
    last: Option<Instant>,
    layer: Option<usize>,
}

impl Shown {
    /// Nothing is shown yet.
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            began: Instant::now(),
            last: None,
            layer: None,
        }
    }

    /// Shows where it is, unless it was shown a moment ago.
    pub fn show(&mut self, progress: Progress) {
        let is_new_layer = self.layer != Some(progress.layer);
        let is_end = progress.done_bytes == progress.total_bytes;
        let is_due = self.last.is_none_or(|last| last.elapsed() >= PERIOD);
        if !(is_new_layer || is_end || is_due) {
            return;
        }
        self.layer = Some(progress.layer);
        self.last = Some(Instant::now());
        let (layers, total_bytes) = (progress.layers, progress.total_bytes);
        match self.shape {
            Shape::Json => print_json(&json!({
                "event": "progress", "layer": progress.layer, "layers": layers,
                "done_bytes": progress.done_bytes, "total_bytes": total_bytes
            })),
            Shape::Bar => {
                eprint!("\r\x1b[K{}", bar(progress, self.began.elapsed()));
                drop(std::io::stderr().flush());
            }
            Shape::Lines if is_new_layer => {
                let number = progress.layer + 1;
                eprintln!("layer {number} of {layers}, {} of all", amount(total_bytes));
            }
            Shape::Lines | Shape::Nothing => {}
        }
    }

    /// Leaves the line to others.
    pub fn end(&self) {
        if self.shape == Shape::Bar {
            eprint!("\r\x1b[K");
        }
    }
}

/// `layer 2 of 5 [######..................] 1.2 MiB of 4.8 MiB, 300 KiB/s, 12 s left`
fn bar(progress: Progress, elapsed: Duration) -> String {
    let Progress {
        layer,
        layers,
        done_bytes,
        total_bytes,
    } = progress;
    let filled = (BAR_WIDTH * done_bytes)
        .checked_div(total_bytes)
        .unwrap_or(BAR_WIDTH)
        .min(BAR_WIDTH);
    let bar: String = (0..BAR_WIDTH)
        .map(|at| if at < filled { '#' } else { '.' })
        .collect();
    let mut text = format!(
        "layer {} of {layers} [{bar}] {} of {}",
        layer + 1,
        amount(done_bytes),
        amount(total_bytes)
    );
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    let rate = done_bytes.saturating_mul(1000) / elapsed_ms.max(1);
    if rate > 0 {
        let left_s = total_bytes.saturating_sub(done_bytes).div_ceil(rate);
        text += &format!(", {}/s, {} left", amount(rate), time(left_s));
    }
    text
}

fn amount(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => {
            let tenths = bytes.saturating_mul(10).saturating_add(524_288) / 1_048_576;
            format!("{}.{} MiB", tenths / 10, tenths % 10)
        }
    }
}

fn time(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_rate_and_time_left() {
        let progress = |done_bytes, total_bytes| Progress {
            layer: 1,
            layers: 5,
            done_bytes,
            total_bytes,
        };
        for (progress, seconds, expected) in [
            (
                progress(1 << 20, 4 << 20),
                10,
                "layer 2 of 5 [######..................] 1.0 MiB of 4.0 MiB, 103 KiB/s, 31 s left",
            ),
            (
                progress(0, 1000),
                1,
                "layer 2 of 5 [........................] 0 B of 1000 B",
            ),
            (
                progress(10, 10),
                1,
                "layer 2 of 5 [########################] 10 B of 10 B, 10 B/s, 0 s left",
            ),
            (
                progress(0, 0),
                1,
                "layer 2 of 5 [########################] 0 B of 0 B",
            ),
            (
                progress(1000, 10_000_000),
                1,
                "layer 2 of 5 [........................] 1000 B of 9.5 MiB, 1000 B/s, 2 h left",
            ),
        ] {
            assert_eq!(bar(progress, Duration::from_secs(seconds)), expected);
        }
    }
}
