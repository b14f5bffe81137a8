//! Which stages are to be built, from what, and in which order: a pure function of the parsed file and the options.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::containerfile::{Containerfile, Copy, Instruction, Kind};
use super::{BuildOptions, expand};
use crate::{Error, Platform, Result};

/// Arguments that need no ARG, and that RUN sees (docs.docker.com, "Predefined ARGs").
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Where files come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image, by its name.
    Image(String),
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagePlan {
    /// Index of its FROM.
    pub at: usize,
    /// Indices of what follows.
    pub instructions: Range<usize>,
    /// As FROM names it.
    pub base: Origin,
    /// What it is built for.
    pub platform: Platform,
    /// `AS name`
    pub name: Option<String>,
}

/// All stages, and what of them is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In the order of the file.
    pub stages: Vec<StagePlan>,
    /// Indices of those the target needs, the target last.
    pub needed: Vec<usize>,
    /// ARGs from before the first FROM.
    pub outer_arguments: BTreeMap<String, String>,
}

/// Plans the build for one platform.
pub fn plan(
    file: &Containerfile,
    options: &BuildOptions,
    target: &Platform,
    host: &Platform,
) -> Result<Plan> {
    check_arguments(file, options)?;
    let first = file
        .instructions
        .iter()
        .position(|instruction| matches!(instruction.kind, Kind::From(_)))
        .unwrap_or(file.instructions.len());
    let outer_arguments = outer_arguments(file, &file.instructions[..first], options, target, host)?;
    let mut stages: Vec<StagePlan> = Vec::new();
    for (at, instruction) in file.instructions.iter().enumerate() {
        let Kind::From(from) = &instruction.kind else {
            continue;
        };
        if let Some(last) = stages.last_mut() {
            last.instructions.end = at;
        }
        let value = |name: &str| {
            let given = outer_arguments.get(name).cloned();
            given.or_else(|| predefined(name, target, host))
        };
        let expanded =
            |text: &str| expand::expand(text, file.escape, &value).map_err(|why| instruction.error(why));
        let image = expanded(&from.image)?;
        if image.is_empty() {
            let why = format!("FROM {} names no image: its variables are empty", from.image);
            return Err(instruction.error(why));
        }
        if from.name.is_some() && stages.iter().any(|stage| stage.name == from.name) {
            return Err(instruction.error("an earlier stage has this name"));
        }
        let platform = match &from.platform {
            None => target.clone(),
            Some(platform) => expanded(platform)?
                .parse()
                .map_err(|error: Box<Error>| instruction.error(error.to_string()))?,
        };
        let base = match named_stage(&stages, &image) {
            Some(stage) => Origin::Stage(stage),
            None if image == "scratch" => Origin::Scratch,
            None => Origin::Image(image),
        };
        stages.push(StagePlan {
            at,
            instructions: at + 1..file.instructions.len(),
            base,
            platform,
            name: from.name.clone(),
        });
    }
    let needed = needed(file, &stages, options)?;
    Ok(Plan {
        stages,
        needed,
        outer_arguments,
    })
}

/// A value for an ARG that does not exist is a typing error.
fn check_arguments(file: &Containerfile, options: &BuildOptions) -> Result<()> {
    for (name, _) in &options.build_args {
        let declared = |instruction: &Instruction| match &instruction.kind {
            Kind::Arg(arguments) => arguments.iter().any(|(declared, _)| declared == name),
            _ => false,
        };
        if !is_proxy(name) && !file.instructions.iter().any(declared) {
            return Err(Error::Run(format!(
                "--build-arg {name}: the Containerfile has no ARG of that name"
            ))
            .into());
        }
    }
    Ok(())
}

/// Whether an argument needs no ARG.
pub fn is_proxy(name: &str) -> bool {
    PROXIES.contains(&name)
}

/// The value that the command line gives to an ARG.
pub fn given<'a>(options: &'a BuildOptions, name: &str) -> Option<&'a String> {
    let mut latest_first = options.build_args.iter().rev();
    latest_first
        .find(|(given, _)| given == name)
        .map(|(_, value)| value)
}

/// What BuildKit gives to an ARG of these names.
pub fn predefined(name: &str, target: &Platform, host: &Platform) -> Option<String> {
    let (platform, what) = match name.strip_prefix("TARGET") {
        Some(what) => (target, what),
        None => (host, name.strip_prefix("BUILD")?),
    };
    match what {
        "PLATFORM" => Some(platform.to_string()),
        "OS" => Some(platform.os.clone()),
        "ARCH" => Some(platform.architecture.clone()),
        "VARIANT" => Some(platform.variant.clone().unwrap_or_default()),
        _ => None,
    }
}

fn outer_arguments(
    file: &Containerfile,
    instructions: &[Instruction],
    options: &BuildOptions,
    target: &Platform,
    host: &Platform,
) -> Result<BTreeMap<String, String>> {
    let mut known = BTreeMap::new();
    for instruction in instructions {
        let Kind::Arg(arguments) = &instruction.kind else {
            continue;
        };
        for (name, default) in arguments {
            let value = |other: &str| -> Option<String> {
                let given: Option<String> = known.get(other).cloned();
                given.or_else(|| predefined(other, target, host))
            };
            let value = match (given(options, name), default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => {
                    Some(expand::expand(default, file.escape, &value).map_err(|why| instruction.error(why))?)
                }
                (None, None) => predefined(name, target, host),
            };
            known.extend(value.map(|value| (name.clone(), value)));
        }
    }
    Ok(known)
}

fn named_stage(stages: &[StagePlan], name: &str) -> Option<usize> {
    let name = name.to_ascii_lowercase();
    stages
        .iter()
        .position(|stage| stage.name.as_deref() == Some(&*name))
}

/// What a COPY in a stage takes from; `None` for the context.
pub fn origin(stages: &[StagePlan], stage: usize, copy: &Copy) -> Option<Origin> {
    let from = copy.from.as_ref()?;
    let earlier = &stages[..stage];
    let by_index = || from.parse().ok().filter(|index| *index < stage);
    Some(match named_stage(earlier, from).or_else(by_index) {
        Some(index) => Origin::Stage(index),
        None => Origin::Image(from.clone()),
    })
}

fn needed(file: &Containerfile, stages: &[StagePlan], options: &BuildOptions) -> Result<Vec<usize>> {
    let last = stages.len().saturating_sub(1);
    let target = match &options.target {
        None => last,
        Some(name) => named_stage(stages, name)
            .or_else(|| name.parse().ok().filter(|index| *index <= last))
            .ok_or_else(|| {
                let names: Vec<&str> = stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
                Error::Run(format!(
                    "--target {name}: there is no such stage; there are: {}",
                    if names.is_empty() {
                        "none with a name".into()
                    } else {
                        names.join(", ")
                    }
                ))
            })?,
    };
    let mut needed = BTreeSet::from([target]);
    // A stage needs earlier ones only.
    for index in (0..=target).rev() {
        if !needed.contains(&index) {
            continue;
        }
        let stage = &stages[index];
        if let Origin::Stage(base) = stage.base {
            needed.insert(base);
        }
        for instruction in &file.instructions[stage.instructions.clone()] {
            if let Kind::Copy(copy) = &instruction.kind {
                match origin(stages, index, copy) {
                    Some(Origin::Stage(from)) => drop(needed.insert(from)),
                    Some(Origin::Image(name)) if name.parse::<usize>().is_ok() => {
                        return Err(instruction
                            .error(format!("--from={name}: there is no such stage before this one")));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(needed.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn planned(text: &str, options: &BuildOptions) -> Result<Plan> {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        let file = parse(text).unwrap();
        plan(
            &file,
            options,
            &platform("linux/arm/v7"),
            &platform("linux/amd64"),
        )
    }

    #[test]
    fn only_stages_that_the_target_needs_are_built() {
        let text = "FROM scratch AS a\nFROM scratch AS unused\nFROM a AS b\nFROM scratch\nCOPY --from=B /x /\nCOPY --from=0 /y /\n";
        let options = BuildOptions::default();
        let plan = planned(text, &options).unwrap();
        assert_eq!(plan.needed, [0, 2, 3]);
        assert_eq!(plan.stages[2].base, Origin::Stage(0));
        for (target, needed) in [("a", vec![0]), ("Unused", vec![1]), ("2", vec![0, 2])] {
            let options = BuildOptions {
                target: Some(target.into()),
                ..BuildOptions::default()
            };
            assert_eq!(planned(text, &options).unwrap().needed, needed, "{target}");
        }
    }

    #[test]
    fn arguments_before_from_make_names_and_platforms() {
        let text = "ARG TAG=3.20\nARG IMAGE=alpine:${TAG}\nFROM --platform=$BUILDPLATFORM $IMAGE AS build\nFROM ${IMAGE:-scratch}-$TARGETARCH$TARGETVARIANT\n";
        let options = BuildOptions {
            build_args: vec![("TAG".into(), "edge".into())],
            ..BuildOptions::default()
        };
        let plan = planned(text, &options).unwrap();
        let bases: Vec<_> = plan
            .stages
            .iter()
            .map(|stage| (stage.base.clone(), stage.platform.to_string()))
            .collect();
        let image = |name: &str| Origin::Image(name.into());
        assert_eq!(
            bases,
            [
                (image("alpine:edge"), "linux/amd64".to_owned()),
                (image("alpine:edge-armv7"), "linux/arm/v7".to_owned()),
            ]
        );
    }

    #[test]
    fn what_cannot_be_meant_is_told_with_its_place() {
        for (text, want) in [
            ("FROM scratch AS a\nFROM scratch AS A\n", ":2:1: an earlier stage"),
            ("FROM $NOTHING\n", ":1:1: FROM $NOTHING names no image"),
            ("FROM scratch\nCOPY --from=1 /x /\n", ":2:1: --from=1"),
            (
                "FROM --platform=linux/a/b/c scratch\n",
                ":1:1: `linux/a/b/c` is not a platform",
            ),
        ] {
            let error = planned(text, &BuildOptions::default()).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        let options = BuildOptions {
            target: Some("x".into()),
            ..BuildOptions::default()
        };
        let error = planned("FROM scratch AS base\n", &options)
            .unwrap_err()
            .to_string();
        assert!(error.contains("--target x") && error.contains("base"), "{error}");
    }
}
