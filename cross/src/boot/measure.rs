//! What a board at rest says of itself: writes to its card, and Punnet's share of its memory.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::story::{STEP_TIMEOUT, Story};

/// How long what the last step has written takes to reach the card: vm.dirty_expire_centisecs (1 s here), and the journal's commit after it (5 s).
const SETTLE_TIME: Duration = Duration::from_secs(12);
/// How long a board at rest is watched: longer than any of the kernel's timers for writing.
const IDLE_TIME: Duration = Duration::from_secs(20);

/// Clock ticks of proc(5): USER_HZ is 100 on every architecture of ours.
const TICKS_PER_S: f64 = 100.0;

impl Story {
    /// Prints where the time from power-on to the app's first output went; `kernel_s` and `output_s` are after the kernel's start.
    pub(super) fn tell_start(&mut self, firmware_s: f64, kernel_s: f64, output_s: f64) -> Result<()> {
        let machine = self.machine()?;
        let processes = machine.ask_until("processes", STEP_TIMEOUT, |answer| answer.contains(" /hello "))?;
        let line = processes.lines().find(|line| line.contains(" /hello "));
        let pid = line
            .and_then(|line| line.split_whitespace().next())
            .context("just seen")?;
        // proc_pid_stat(5): starttime is field 22, the 20th behind the name.
        let ticks = |answer: &str| {
            let (_, fields) = answer.split_once("(hello) ")?;
            fields.split_whitespace().nth(19)?.parse::<f64>().ok()
        };
        let stat = machine.ask_until(&format!("cat /proc/{pid}/stat"), STEP_TIMEOUT, |answer| {
            ticks(answer).is_some()
        })?;
        let cloned_s = ticks(&stat).context("asked until it is there")? / TICKS_PER_S;
        println!(
            "    | start: emulator {firmware_s:.2} s, kernel {kernel_s:.2} s, punnet to the container's process {:.2} s, from there to its first output {:.2} s",
            cloned_s - kernel_s,
            output_s - cloned_s
        );
        Ok(())
    }

    /// A card lives for so many writes: a board at rest makes none.
    pub(super) fn rest_without_writing(&mut self) -> Result<()> {
        let machine = self.machine()?;
        std::thread::sleep(SETTLE_TIME);
        let before = machine.sectors_written()?;
        std::thread::sleep(IDLE_TIME);
        let written = machine.sectors_written()? - before;
        ensure!(
            written == 0,
            "{written} sectors were written in {IDLE_TIME:?} at rest"
        );
        println!("    | no sector written in {} s", IDLE_TIME.as_secs());
        Ok(())
    }

    /// Prints what all processes of Punnet take together (proc(5): smaps_rollup, status), and what the board has.
    pub(super) fn tell_memory(&mut self) -> Result<()> {
        let machine = self.machine()?;
        let processes = machine.ask_until("processes", STEP_TIMEOUT, |answer| {
            answer.contains("punnet agent")
        })?;
        let ours = processes
            .lines()
            .filter(|line| line.contains("punnet ") || line.contains("/init"));
        let pids: Vec<String> = ours
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect();
        let mut of = |file: &str, field: &str| -> Result<u64> {
            let line = |answer: &str| {
                answer
                    .lines()
                    .find_map(|line| line.strip_prefix(field).map(str::to_owned))
            };
            let answer = machine.ask_until(&format!("cat {file}"), STEP_TIMEOUT, |answer| {
                line(answer).is_some()
            })?;
            let value = line(&answer).context("asked until it is there")?;
            value
                .trim_start_matches(':')
                .split_whitespace()
                .next()
                .and_then(|kib| kib.parse().ok())
                .context("no number of KiB")
        };
        let (mut pss_kib, mut tables_kib) = (0, 0);
        for pid in &pids {
            pss_kib += of(&format!("/proc/{pid}/smaps_rollup"), "Pss:")?;
            tables_kib += of(&format!("/proc/{pid}/status"), "VmPTE:")?;
        }
        let [total, available] = [
            of("/proc/meminfo", "MemTotal:")?,
            of("/proc/meminfo", "MemAvailable:")?,
        ];
        println!(
            "    | memory: {total} KiB, {available} available; Punnet's {} processes: PSS {pss_kib} KiB, page tables {tables_kib} KiB",
            pids.len()
        );
        Ok(())
    }
}
