//! What a board says of itself: how long its start took; at rest, writes to its card, and Punnet's share of its memory.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::story::{Clock, ONLINE_TIMEOUT, STEP_TIMEOUT, Story, seconds_before};
use crate::emulator::Machine;

/// How long what the start has written takes to reach the card, seconds: vm.dirty_expire_centisecs (30 s), and the journal's commit after it (5 s).
const SETTLE_S: f64 = 120.0;
/// How long a board at rest is watched.
const IDLE_S: f64 = 3600.0;
/// So often it is tried.
const RESTS: usize = 3;

/// Of Debian's kernels for every architecture of ours.
const PAGE_BYTES: i64 = 4096;

/// Clock ticks of proc(5): USER_HZ is 100 on every architecture of ours.
const TICKS_PER_S: f64 = 100.0;

/// Where the time from power-on to the app's first output went: seconds, all but the first after the kernel's start.
pub(super) struct Start {
    firmware_s: f64,
    kernel_s: f64,
    container_s: f64,
    output_s: f64,
}

impl Start {
    /// Waits until the app `hello` runs on a board without network, and asks the board when what began. Its first line begins with `greeting`.
    pub(super) fn of(machine: &mut Machine, switched_on: Instant, greeting: &str) -> Result<Self> {
        let kernel_s = machine.wait_for("the first process", ONLINE_TIMEOUT, |output| {
            Ok(seconds_before(output, " s after the kernel"))
        })?;
        let firmware_s = switched_on.elapsed().as_secs_f64() - kernel_s;
        machine.wait_for("the console", ONLINE_TIMEOUT, |output| {
            Ok(output.contains("punnet> ").then_some(()))
        })?;
        // The agent starts it as soon as it can; nobody is there to tell us but the board itself.
        machine.ask_until("ps", STEP_TIMEOUT, |answer| {
            answer.contains("hello") && answer.contains("running")
        })?;
        let said = machine.ask_until("logs hello", STEP_TIMEOUT, |answer| answer.contains(": "))?;
        ensure!(said.contains(greeting), "not {greeting:?} is what runs: {said}");
        let output_s = seconds_before(&said, " s after the kernel").context("the app says no time")?;
        let processes = machine.ask_until("processes", STEP_TIMEOUT, |answer| answer.contains(" /hello "))?;
        let line = processes.lines().find(|line| line.contains(" /hello "));
        let pid = line
            .and_then(|line| line.split_whitespace().next())
            .context("just seen")?;
        let stat = machine.ask_until(&format!("cat /proc/{pid}/stat"), STEP_TIMEOUT, |answer| {
            started_at_s(answer).is_some()
        })?;
        Ok(Self {
            firmware_s,
            kernel_s,
            container_s: started_at_s(&stat).context("asked until it is there")?,
            output_s,
        })
    }

    /// From the first process on.
    pub(super) fn after_pid_1_s(&self) -> f64 {
        self.output_s - self.kernel_s
    }
}

impl std::fmt::Display for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "start: emulator {:.2} s, kernel {:.2} s, punnet to the container's process {:.2} s, from there to its first output {:.2} s",
            self.firmware_s,
            self.kernel_s,
            self.container_s - self.kernel_s,
            self.output_s - self.container_s
        )
    }
}

/// When the app's process began, seconds after the kernel, once a text has its line of proc_pid_stat(5): starttime is field 22, the 20th behind the name.
pub(super) fn started_at_s(text: &str) -> Option<f64> {
    let (_, fields) = text.split_once("(hello) ")?;
    let ticks = fields.lines().next()?.split_whitespace().nth(19)?;
    Some(ticks.parse::<f64>().ok()? / TICKS_PER_S)
}

/// How many sockets there are, and what the kernel has for them, bytes: the object of each, and the pages of what is queued (net/core/sock.c,
/// proto_seq_printf: name, size, sockets, pages or -1, ...).
fn sockets(protocols: &str) -> (u64, u64) {
    let mut sum = (0, 0);
    for line in protocols.lines() {
        let mut words = line.split_whitespace().skip(1).map(str::parse::<i64>);
        if let (Some(Ok(size)), Some(Ok(count)), Some(Ok(pages))) = (words.next(), words.next(), words.next())
        {
            let bytes = size * count + pages.max(0) * PAGE_BYTES;
            sum = (sum.0 + count.unsigned_abs(), sum.1 + bytes.unsigned_abs());
        }
    }
    sum
}

impl Story {
    /// A card lives for so many writes: a board at rest makes none in an hour. The board is off, before and after.
    pub(super) fn rest_for_an_hour(&mut self) -> Result<()> {
        let mut rested = self.rest();
        for _ in 1..RESTS {
            // To a board in a hurry this machine may seem to hang, when its disk or its network does not answer at once.
            let was_reset = self.machine()?.output().contains("the watchdog is no longer fed");
            if rested.is_ok() || !was_reset {
                break;
            }
            println!("    | the board took this machine for dead, and is started again");
            rested = self.rest();
        }
        rested?;
        self.wait_online()?;
        self.power_off()
    }

    fn rest(&mut self) -> Result<()> {
        self.with_clock(Clock::Hurried, Self::switch_on)?;
        self.wait_online()?;
        self.wait_app("hello", "to run", |app| app["state"] == "running")?;
        let machine = self.machine()?;
        let began_s = machine.wait_uptime(0.0)?;
        let settled_s = machine.wait_uptime(began_s + SETTLE_S)?;
        let before = machine.sectors_written()?;
        ensure!(before > 0, "mounting writes, and yet no sector was counted");
        let ended_s = machine.wait_uptime(settled_s + IDLE_S)?;
        let written = machine.sectors_written()? - before;
        let rested_s = ended_s - settled_s;
        ensure!(
            written == 0,
            "{written} sectors were written in {rested_s:.0} s at rest"
        );
        println!("    | no sector written in {rested_s:.0} s");
        Ok(())
    }

    /// Prints what all processes of Punnet take together (proc(5): smaps_rollup, status), what the kernel has for its sockets, and what the board has. No app
    /// has a socket of its own here, so all there are are Punnet's.
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
        let protocols = machine.ask_until("cat /proc/net/protocols", STEP_TIMEOUT, |answer| {
            answer.contains("TCP ")
        })?;
        let (sockets, sockets_bytes) = sockets(&protocols);
        println!(
            "    | memory: {total} KiB, {available} available; Punnet's {} processes: PSS {pss_kib} KiB, page tables {tables_kib} KiB, the kernel's for its {sockets} sockets {} KiB",
            pids.len(),
            sockets_bytes.div_ceil(1024)
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sockets_are_counted_with_their_queues_and_without_what_is_not_told() {
        let protocols = "protocol  size sockets  memory press maxhdr  slab module     cl co\n\
            PACKET    1472      0      -1   NI       0   no   kernel      n  n\n\
            UNIX      1024      3      -1   NI       0   yes  kernel      n  n\n\
            TCP       2304      2       5   no     320   yes  kernel      y  y\n";
        assert_eq!(super::sockets(protocols), (5, 3 * 1024 + 2 * 2304 + 5 * 4096));
    }
}
