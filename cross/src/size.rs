//! `cargo xtask size`: what the device binary weighs, and what each feature and dependency adds.
//!
//! Budgets are tests: compiler and lock file make the size repeatable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSymbol, SymbolKind};
use punnet_boards::Arch;

use crate::build::{self, Strip, static_target};
use crate::cross::{self, Compiler};
use crate::process::side_by_side;

/// Feature sets of the device binary, smallest first, and the most KiB each may weigh on the machine that runs the tests (x86-64 with glibc's
/// static half, which alone is some 800 KiB). About a tenth over what was measured when it was set.
const BUDGETS: [(&str, &[&str], u64); 3] = [
    ("runtime", &["runtime"], 2450),
    ("runtime, images", &["images"], 5100),
    ("runtime, images, agent (all)", &[], 5900),
];

/// The most KiB that the program for ARM boards may weigh: with the runtime alone (the goal is 450), and all of it (the goal is 1536). At most a
/// twentieth over what was measured when it was set; the same compiler gives the same bytes.
const BOARD_BUDGETS: [(Arch, u64, u64); 3] = [
    (Arch::Arm64, 450, 2230),
    (Arch::ArmV7, 335, 1536),
    (Arch::ArmV6, 450, 2220),
];

/// Rows of the table by crate.
const CRATES_SHOWN: usize = 25;

/// Options of `size`.
#[derive(clap::Args, Default)]
pub struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Weigh what this board gets (cross-compiled, musl) instead of a build for this machine
    #[arg(long, value_name = "BOARD")]
    board: Option<String>,
}

/// Prints the tables; fails when a feature set has outgrown its budget.
pub fn run(options: &Options) -> Result<()> {
    let builds = Builds::of(options.board.as_deref())?;
    let features = by_feature(&builds)?;
    let outgrown: Vec<_> = features
        .iter()
        .filter(|(_, bytes, budget_kib)| budget_kib.is_some_and(|budget| bytes.div_ceil(1024) > budget))
        .map(|(name, ..)| *name)
        .collect();
    let crates = by_crate(&builds.build(&[], Strip::No)?)?;
    if options.json {
        let features: BTreeMap<_, _> = features.iter().map(|(name, bytes, _)| (name, bytes)).collect();
        println!(
            "{}",
            serde_json::json!({ "bytes_by_feature": features, "code_and_data_bytes_by_crate": crates })
        );
        return within_budget(&outgrown);
    }
    println!("punnet, stripped, {}\n", builds.target()?);
    println!("{:<34} {:>10} {:>10} {:>10}", "features", "KiB", "adds", "budget");
    let mut before = 0;
    for (name, bytes, budget_kib) in features {
        println!(
            "{name:<34} {:>10} {:>10} {:>10}",
            bytes.div_ceil(1024),
            (bytes - before).div_ceil(1024),
            budget_kib.map_or_else(|| "-".to_owned(), |budget| budget.to_string())
        );
        before = bytes;
    }
    println!(
        "\nCode and data by crate (symbols of the same build before stripping; what is inlined counts where it went)\n"
    );
    let mut rows: Vec<_> = crates.into_iter().collect();
    rows.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    for (name, bytes) in rows.iter().take(CRATES_SHOWN) {
        println!("{name:<34} {:>10.1} KiB", *bytes as f64 / 1024.0);
    }
    let rest: u64 = rows.iter().skip(CRATES_SHOWN).map(|(_, bytes)| bytes).sum();
    println!(
        "{:<34} {:>10.1} KiB",
        format!("{} more", rows.len().saturating_sub(CRATES_SHOWN)),
        rest as f64 / 1024.0
    );
    within_budget(&outgrown)
}

fn within_budget(outgrown: &[impl AsRef<str>]) -> Result<()> {
    let outgrown: Vec<_> = outgrown.iter().map(AsRef::as_ref).collect();
    ensure!(
        outgrown.is_empty(),
        "punnet has outgrown its budget with: {}",
        outgrown.join("; ")
    );
    Ok(())
}

/// What CI checks of the boards besides: all that is for ARM keeps its budget.
pub fn boards_in_ci() -> Result<()> {
    let compiler = Compiler::find()?;
    let weigh = |(arch, runtime_kib, all_kib): (Arch, u64, u64)| {
        let weigh = |(features, budget_kib): (&[&str], u64)| {
            let bytes = std::fs::metadata(compiler.build("punnet", arch, features)?)?.len();
            let what = format!("{} {}", arch.target(), build::features_name(features));
            Ok((what, bytes.div_ceil(1024), budget_kib))
        };
        [(&["runtime"][..], runtime_kib), (&[], all_kib)]
            .map(weigh)
            .into_iter()
            .collect::<Result<Vec<_>>>()
    };
    // Side by side: one processor does the last part of each, which is the longest.
    let weighed = side_by_side(BOARD_BUDGETS, weigh)?;
    let mut outgrown = Vec::new();
    for (what, kib, budget_kib) in weighed.into_iter().flatten() {
        println!("    {what}: {kib} KiB of {budget_kib}");
        if kib > budget_kib {
            outgrown.push(what);
        }
    }
    within_budget(&outgrown)
}

/// Where binaries come from.
enum Builds {
    Here,
    Board(Compiler, Arch),
}

impl Builds {
    fn of(board: Option<&str>) -> Result<Self> {
        Ok(match board {
            None => Self::Here,
            Some(name) => Self::Board(Compiler::find()?, cross::board(name)?.board.arch),
        })
    }

    fn build(&self, features: &[&str], strip: Strip) -> Result<PathBuf> {
        match self {
            Self::Here => build::device_binary("punnet", features, strip),
            Self::Board(compiler, arch) => compiler.build_with("punnet", *arch, features, strip),
        }
    }

    fn budget_kib(&self, features: &[&str], here_kib: u64) -> Option<u64> {
        let Self::Board(_, board) = self else {
            return Some(here_kib);
        };
        let (_, runtime_kib, all_kib) = BOARD_BUDGETS.into_iter().find(|(arch, ..)| arch == board)?;
        match features {
            [] => Some(all_kib),
            ["runtime"] => Some(runtime_kib),
            _ => None,
        }
    }

    fn target(&self) -> Result<String> {
        Ok(match self {
            Self::Here => {
                let target = static_target()?;
                let linked = if target.is_static { "static" } else { "dynamic" };
                format!("{linked}, {}", target.triple)
            }
            Self::Board(_, arch) => format!("static, {}", arch.target()),
        })
    }
}

fn by_feature(builds: &Builds) -> Result<Vec<(&'static str, u64, Option<u64>)>> {
    let weigh = |(name, features, budget): (&'static str, &[&str], u64)| {
        let binary = builds.build(features, Strip::Yes)?;
        Ok((
            name,
            std::fs::metadata(&binary)?.len(),
            builds.budget_kib(features, budget),
        ))
    };
    BUDGETS.into_iter().map(weigh).collect()
}

fn by_crate(binary: &Path) -> Result<BTreeMap<String, u64>> {
    let bytes = std::fs::read(binary)?;
    let file = object::File::parse(&*bytes)
        .with_context(|| format!("{} is no object file", PathBuf::from(binary).display()))?;
    let mut sizes = BTreeMap::new();
    for symbol in file
        .symbols()
        .filter(|symbol| matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Data))
    {
        *sizes.entry(owner(symbol.name().unwrap_or_default())).or_default() += symbol.size();
    }
    Ok(sizes)
}

/// The crate a symbol belongs to; C and assembly have none.
fn owner(symbol: &str) -> String {
    let shown = format!("{:#}", rustc_demangle::demangle(symbol));
    if shown.starts_with("ring_core") || symbol.contains("ring_core") {
        return "ring (C and assembly)".into();
    }
    if !shown.contains("::") {
        return "C library".into();
    }
    // `<a::B as c::D>::e` is a's.
    shown
        .trim_start_matches(['<', '&', '[', '*', '('])
        .trim_start_matches("mut ")
        .trim_start_matches("dyn ")
        .split("::")
        .next()
        .unwrap_or_default()
        .into()
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn a_symbol_belongs_to_the_crate_that_implements_it() {
        let cases = [
            ("_ZN4core3fmt5write17h0123456789abcdefE", "core"),
            (
                "_ZN59_$LT$punnet_spec..Root$u20$as$u20$serde..ser..Serialize$GT$9serialize17h0123456789abcdefE",
                "punnet_spec",
            ),
            ("memcpy", "C library"),
            ("ring_core_0_17_14__x25519_fe_mul", "ring (C and assembly)"),
        ];
        for (symbol, want) in cases {
            assert_eq!(owner(symbol), want, "{symbol}");
        }
    }
}
