//! `update`: new limits from a file, from standard input, or from options.

use super::args::Args;
use crate::error::{Error, OsContext, Result};
use punnet_spec::{BlockIo, Cpu, Memory, Pids, Resources};
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

/// The options that set a limit, by runc's names.
pub(super) const OPTIONS: [&str; 15] = [
    "blkio-weight",
    "cpu-burst",
    "cpu-idle",
    "cpu-period",
    "cpu-quota",
    "cpu-share",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "cpuset-cpus",
    "cpuset-mems",
    "memory",
    "memory-reservation",
    "memory-swap",
    "pids-limit",
    "kernel-memory",
];

/// Largest document of resources: many times any real one.
const BYTES_MAX: u64 = 1024 * 1024;

/// What `update` asks for. Options are ignored where a document is given, as runc does.
#[inline(never)]
pub(super) fn resources(args: &Args) -> Result<Resources> {
    match &args.resources {
        Some(path) => read(path),
        None if args.limits.is_empty() => {
            Err(Error::Usage("update needs limits, as --memory 64m, or --resources FILE".to_owned()).into())
        }
        None => from_options(&args.limits),
    }
}

fn read(path: &Path) -> Result<Resources> {
    let stream: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).os("open", path.display())?)
    };
    let mut bytes = Vec::new();
    stream
        .take(BYTES_MAX)
        .read_to_end(&mut bytes)
        .os("read", path.display())?;
    punnet_json::from_slice(&bytes).map_err(|source| {
        Error::Json {
            path: path.display().to_string(),
            source,
        }
        .into()
    })
}

fn from_options(limits: &[(String, String)]) -> Result<Resources> {
    let (mut memory, mut cpu) = (Memory::default(), Cpu::default());
    let (mut pids, mut io) = (Pids::default(), BlockIo::default());
    for (name, value) in limits {
        let given = Given { name, value };
        match name.as_str() {
            "memory" => memory.limit = Some(given.bytes()?),
            "memory-reservation" => memory.reservation = Some(given.bytes()?),
            "memory-swap" => memory.swap = Some(given.bytes()?),
            "kernel-memory" => memory.kernel = Some(given.bytes()?),
            "cpu-share" => cpu.shares = Some(given.number()?),
            "cpu-quota" => cpu.quota = Some(given.number()?),
            "cpu-period" => cpu.period = Some(given.number()?),
            "cpu-burst" => cpu.burst = Some(given.number()?),
            "cpu-idle" => cpu.idle = Some(given.number()?),
            "cpu-rt-period" => cpu.realtime_period = Some(given.number()?),
            "cpu-rt-runtime" => cpu.realtime_runtime = Some(given.number()?),
            "cpuset-cpus" => cpu.cpus.clone_from(value),
            "cpuset-mems" => cpu.mems.clone_from(value),
            "pids-limit" => pids.limit = Some(given.number()?),
            "blkio-weight" => io.weight = Some(given.number()?),
            other => return Err(Error::usage(format_args!("--{other} is not known"))),
        }
    }
    Ok(Resources {
        memory: (memory != Memory::default()).then_some(memory),
        cpu: (cpu != Cpu::default()).then_some(cpu),
        pids: pids.limit.is_some().then_some(pids),
        block_io: (io != BlockIo::default()).then_some(io),
        ..Resources::default()
    })
}

struct Given<'a> {
    name: &'a str,
    value: &'a str,
}

impl Given<'_> {
    fn number<T: FromStr>(&self) -> Result<T> {
        self.value.parse().map_err(|_| self.wrong("a number"))
    }

    /// Bytes, with k, m, g or t (of 1024) behind; -1 is no limit.
    fn bytes(&self) -> Result<i64> {
        let wrong = || self.wrong("bytes, as 67108864 or 64m, or -1");
        let text = self.value.trim_end_matches(['b', 'B']);
        let (digits, shift) = match text.char_indices().next_back() {
            Some((end, letter)) if letter.is_ascii_alphabetic() => {
                let shift = match letter.to_ascii_lowercase() {
                    'k' => 10,
                    'm' => 20,
                    'g' => 30,
                    't' => 40,
                    _ => return Err(wrong()),
                };
                (&text[..end], shift)
            }
            _ => (text, 0),
        };
        let number: i64 = digits.parse().map_err(|_| wrong())?;
        number.checked_mul(1 << shift).ok_or_else(wrong)
    }

    fn wrong(&self, wanted: &str) -> Box<Error> {
        Error::usage(format_args!(
            "--{} {:?}: {wanted} is needed",
            self.name, self.value
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &[(&str, &str)]) -> Result<punnet_json::Value> {
        let options: Vec<_> = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        from_options(&options).map(|resources| punnet_json::to_value(&resources))
    }

    #[test]
    fn options_become_the_specifications_fields() {
        let all = check(&[
            ("memory", "64m"),
            ("memory-swap", "-1"),
            ("cpu-share", "512"),
            ("cpu-quota", "-1"),
            ("cpuset-cpus", "0-1"),
            ("pids-limit", "9"),
            ("blkio-weight", "100"),
        ]);
        assert_eq!(
            all.unwrap(),
            punnet_json::json!({
                "memory": { "limit": 67_108_864, "swap": -1 },
                "cpu": { "shares": 512, "quota": -1, "cpus": "0-1" },
                "pids": { "limit": 9 },
                "blockIO": { "weight": 100 },
            })
        );
    }

    #[test]
    fn every_option_is_understood_and_wrong_values_are_named() {
        for name in OPTIONS {
            assert!(check(&[(name, "1")]).is_ok(), "{name}");
        }
        for (name, value) in [
            ("memory", "much"),
            ("memory", ""),
            ("memory", "9999999999g"),
            ("pids-limit", "1.5"),
            ("blkio-weight", "70000"),
        ] {
            let text = check(&[(name, value)]).unwrap_err().to_string();
            assert!(text.contains(name), "{text}");
        }
    }
}
