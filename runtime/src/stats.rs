//! What a container uses, in the document that `events --stats` prints: runc's, which engines parse. It has cgroup v1's shape, so some
//! values of cgroup v2 are converted: microseconds to nanoseconds, swap to memory and swap together.
//! <https://github.com/opencontainers/runc/blob/main/types/events.go>, cgroup-v2.rst

use crate::error::{OsContext, Result};
use punnet_json::{Map, ToJson};
use std::path::Path;

/// Use of one container. A controller that is not enabled is all zeros.
#[derive(Debug, Default, ToJson)]
pub struct Stats {
    /// Processor time.
    pub cpu: CpuStats,
    /// Memory and swap.
    pub memory: MemoryStats,
    /// Tasks.
    pub pids: PidsStats,
    /// Block devices.
    pub blkio: BlockStats,
    /// Huge pages, by size.
    pub hugetlb: Map<Counter>,
}

/// Processor time.
#[derive(Debug, Default, ToJson)]
pub struct CpuStats {
    /// Time used.
    pub usage: CpuUsage,
    /// Time denied.
    pub throttling: Throttling,
}

/// Nanoseconds.
#[derive(Debug, Default, ToJson)]
pub struct CpuUsage {
    /// All.
    pub total: u64,
    /// In the kernel.
    pub kernel: u64,
    /// Outside it.
    pub user: u64,
}

/// What cpu.max did.
#[derive(Debug, Default, ToJson)]
#[json(rename_all = "camelCase")]
pub struct Throttling {
    /// Periods that have gone by.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// Nanoseconds.
    pub throttled_time: u64,
}

/// Bytes.
#[derive(Debug, Default, ToJson)]
pub struct MemoryStats {
    /// Page cache.
    pub cache: u64,
    /// Memory.
    pub usage: Counter,
    /// Memory and swap together.
    pub swap: Counter,
    /// memory.stat as it is.
    pub raw: Map<u64>,
}

/// A value and its limit; [`UNLIMITED`] where there is none.
#[derive(Debug, Default, ToJson)]
pub struct Counter {
    /// Limit.
    pub limit: u64,
    /// Now.
    pub usage: u64,
    /// The most there has been.
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// Tasks.
#[derive(Debug, Default, ToJson)]
pub struct PidsStats {
    /// Now.
    pub current: u64,
    /// Limit, 0 where there is none.
    pub limit: u64,
}

/// io.stat by device.
#[derive(Debug, Default, ToJson)]
#[json(rename_all = "camelCase")]
pub struct BlockStats {
    /// Bytes.
    pub io_service_bytes_recursive: Vec<BlockEntry>,
    /// Operations.
    pub io_serviced_recursive: Vec<BlockEntry>,
}

/// One count of one device.
#[derive(Debug, PartialEq, Eq, ToJson)]
pub struct BlockEntry {
    /// Device.
    pub major: u64,
    /// Device.
    pub minor: u64,
    /// `Read`, `Write` or `Discard`.
    pub op: &'static str,
    /// Count.
    pub value: u64,
}

/// What stands for no limit.
pub const UNLIMITED: u64 = u64::MAX;

/// Reads a cgroup's files.
pub(crate) fn read(cgroup: &Path) -> Result<Stats> {
    let file = |name: &str| Files(cgroup).text(name);
    Ok(Stats {
        cpu: cpu(&file("cpu.stat")?),
        memory: memory(Files(cgroup))?,
        pids: PidsStats {
            current: number(&file("pids.current")?),
            limit: match number(&file("pids.max")?) {
                UNLIMITED => 0,
                limit => limit,
            },
        },
        blkio: block(&file("io.stat")?),
        hugetlb: hugetlb(Files(cgroup))?,
    })
}

struct Files<'a>(&'a Path);

impl Files<'_> {
    /// A file's text; empty where the controller is not enabled.
    fn text(&self, name: &str) -> Result<String> {
        let path = self.0.join(name);
        match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            text => text.os("read", path.display()),
        }
    }
}

/// A file of one number, or `max`.
fn number(text: &str) -> u64 {
    match text.trim() {
        "max" => UNLIMITED,
        number => number.parse().unwrap_or(0),
    }
}

/// Lines of a name and a number.
fn pairs(text: &str) -> Map<u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

fn cpu(stat: &str) -> CpuStats {
    const NS_PER_US: u64 = 1000;
    let stat = pairs(stat);
    let count = |name: &str| stat.get(name).copied().unwrap_or(0);
    let time = |name: &str| count(name).saturating_mul(NS_PER_US);
    CpuStats {
        usage: CpuUsage {
            total: time("usage_usec"),
            kernel: time("system_usec"),
            user: time("user_usec"),
        },
        throttling: Throttling {
            periods: count("nr_periods"),
            throttled_periods: count("nr_throttled"),
            throttled_time: time("throttled_usec"),
        },
    }
}

fn memory(files: Files<'_>) -> Result<MemoryStats> {
    let value = |name: &str| files.text(name).map(|text| number(&text));
    let raw = pairs(&files.text("memory.stat")?);
    let usage = Counter {
        limit: value("memory.max")?,
        usage: value("memory.current")?,
        max: value("memory.peak")?,
        failcnt: pairs(&files.text("memory.events")?)
            .get("max")
            .copied()
            .unwrap_or(0),
    };
    let swap = Counter {
        limit: value("memory.swap.max")?.saturating_add(usage.limit),
        usage: value("memory.swap.current")?.saturating_add(usage.usage),
        ..Counter::default()
    };
    Ok(MemoryStats {
        cache: raw.get("file").copied().unwrap_or(0),
        usage,
        swap,
        raw,
    })
}

fn block(stat: &str) -> BlockStats {
    let mut stats = BlockStats::default();
    for line in stat.lines() {
        let mut words = line.split_whitespace();
        let device = words.next().and_then(|device| device.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(major, minor)| (major.parse(), minor.parse())) else {
            continue;
        };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, op) = match name {
                "rbytes" => (&mut stats.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut stats.io_service_bytes_recursive, "Write"),
                "dbytes" => (&mut stats.io_service_bytes_recursive, "Discard"),
                "rios" => (&mut stats.io_serviced_recursive, "Read"),
                "wios" => (&mut stats.io_serviced_recursive, "Write"),
                "dios" => (&mut stats.io_serviced_recursive, "Discard"),
                _ => continue,
            };
            list.push(BlockEntry {
                major,
                minor,
                op,
                value: number(value),
            });
        }
    }
    stats
}

/// `hugetlb.<size>.current` and its neighbours, for every size the kernel has.
fn hugetlb(files: Files<'_>) -> Result<Map<Counter>> {
    let mut sizes = Map::new();
    for entry in std::fs::read_dir(files.0).os("read", files.0.display())? {
        let name = entry.os("read", files.0.display())?.file_name();
        let size = name
            .to_str()
            .and_then(|name| name.strip_prefix("hugetlb.")?.strip_suffix(".current"))
            .filter(|size| !size.contains('.'));
        if let Some(size) = size {
            let value = |kind: &str| {
                files
                    .text(&format!("hugetlb.{size}.{kind}"))
                    .map(|text| number(&text))
            };
            let events = pairs(&files.text(&format!("hugetlb.{size}.events"))?);
            let counter = Counter {
                limit: value("max")?,
                usage: value("current")?,
                max: 0,
                failcnt: events.get("max").copied().unwrap_or(0),
            };
            sizes.insert(size.to_owned(), counter);
        }
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_v2_files_become_v1_units() {
        let stats = cpu(
            "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 3\nnr_throttled 2\nthrottled_usec 5\n",
        );
        let seen = punnet_json::to_value(&stats);
        assert_eq!(
            seen,
            punnet_json::json!({
                "usage": { "total": 30_000, "kernel": 10_000, "user": 20_000 },
                "throttling": { "periods": 3, "throttledPeriods": 2, "throttledTime": 5_000 },
            })
        );
        assert_eq!((number("max\n"), number("7\n"), number("")), (UNLIMITED, 7, 0));
    }

    #[test]
    fn block_counts_are_split_by_device_and_kind() {
        let stats = block("254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:0\nnonsense rbytes=1\n");
        let reads = |list: &[BlockEntry]| {
            list.iter()
                .find(|entry| entry.op == "Read")
                .map(|entry| (entry.major, entry.value))
        };
        assert_eq!(reads(&stats.io_service_bytes_recursive), Some((254, 1)));
        assert_eq!(reads(&stats.io_serviced_recursive), Some((254, 3)));
        assert_eq!(stats.io_serviced_recursive.len(), 3);
    }

    #[test]
    fn memory_and_swap_are_added_up() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("memory.max", "100"),
            ("memory.current", "40"),
            ("memory.swap.max", "50"),
            ("memory.swap.current", "2"),
            ("memory.stat", "anon 30\nfile 9\n"),
            ("memory.events", "low 0\nmax 4\noom 1\n"),
            ("hugetlb.2MB.current", "0"),
            ("hugetlb.2MB.max", "max"),
            ("hugetlb.2MB.rsvd.current", "0"),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let stats = read(dir.path()).unwrap();
        assert_eq!((stats.memory.swap.limit, stats.memory.swap.usage), (150, 42));
        assert_eq!((stats.memory.cache, stats.memory.usage.failcnt), (9, 4));
        assert_eq!(stats.hugetlb.keys().collect::<Vec<_>>(), ["2MB"]);
        assert_eq!(stats.cpu.usage.total, 0);
    }
}
