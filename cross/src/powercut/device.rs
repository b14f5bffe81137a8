//! Punnet on the disk: what it works on, the work, and what must be true after a cut.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::Random;
use crate::process::{interrupted, output_of, run, shown, stdout_of};
use crate::stand::Programs;

/// Files of a test image, and bytes of the largest.
const FILES: u64 = 120;
const FILE_BYTES_MAX: u64 = 40_000;

/// What is built while the power is cut: files, and steps that write.
const STEPS: &str = "COPY busybox /bin/busybox
RUN [\"/bin/busybox\", \"sh\", \"-c\", \"cd /files && for f in *; do echo $f >> /list; done && busybox rm -r /files && echo made > /made\"]
RUN [\"/bin/busybox\", \"sh\", \"-c\", \"busybox mkdir /more && echo more > /more/file\"]
";

/// Names under which the store may have anything.
const PARTS: &[&str] = &[
    "images",
    "lock",
    "objects",
    "refs",
    "staging",
    "version",
    "store",
    "containers",
    "build",
    "cache",
    "work",
];

/// What is pulled, loaded and built.
#[derive(Deserialize, Serialize)]
pub struct Images {
    /// Has `good.tar`, `old.tar`, `new.tar` (three quarters of whose files are those of `old`) and `context/`, each with a program that runs.
    folder: PathBuf,
    /// The registry that has `app:old` and `app:new`.
    registry: String,
    /// Digests of the manifests.
    old: String,
    new: String,
    built: String,
}

impl Images {
    /// Makes them, and puts two of them into the registry.
    pub fn make(programs: &Programs, folder: &Path, registry: &str) -> Result<Self> {
        std::fs::create_dir(folder)?;
        let punnet = || {
            let mut command = Command::new(&programs.punnet);
            for root in ["data", "run"] {
                command.arg(format!("--{root}-root")).arg(folder.join(root));
            }
            command
        };
        let build = |name: &str, first: u64, steps: &str, output: Option<&Path>| -> Result<String> {
            let context = folder.join(name);
            make_context(programs, &context, first, steps)?;
            let mut build = punnet();
            build.arg("build");
            if let Some(archive) = output {
                build.arg("--output").arg(archive);
            }
            Ok(stdout_of(build.arg(&context))?.trim().to_owned())
        };
        let archive =
            |name: &str, first| build(name, first, "", Some(&folder.join(name).with_extension("tar")));
        archive("good", 0)?;
        let images = Self {
            old: archive("old", 1000)?,
            new: archive("new", 1000 + FILES / 4)?,
            built: build("context", 5000, STEPS, None)?,
            folder: folder.into(),
            registry: registry.into(),
        };
        for name in ["old", "new"] {
            let mut push = punnet();
            push.args(["push", "--quiet", "--from"]).arg(images.archive(name));
            run(push.arg(images.reference(name)).stdout(Stdio::null()))?;
        }
        Ok(images)
    }

    /// The same images, their registry at another address, as another machine sees it.
    pub fn with_registry(self, registry: String) -> Self {
        Self { registry, ..self }
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn archive(&self, name: &str) -> String {
        self.folder.join(name).with_extension("tar").display().to_string()
    }

    fn context(&self) -> String {
        self.folder.join("context").display().to_string()
    }

    fn reference(&self, name: &str) -> String {
        format!("{}/app:{name}", self.registry)
    }
}

fn make_context(programs: &Programs, context: &Path, first: u64, steps: &str) -> Result<()> {
    std::fs::create_dir_all(context.join("files"))?;
    for number in first..first + FILES {
        let mut random = Random(number);
        let size = random.below(FILE_BYTES_MAX);
        let content: Vec<u8> = std::iter::repeat_with(|| random.below(256) as u8)
            .take(usize::try_from(size)?)
            .collect();
        std::fs::write(context.join(format!("files/{number}")), content)?;
    }
    std::fs::copy(&programs.hello, context.join("hello"))?;
    std::fs::copy("/bin/busybox", context.join("busybox")).context("busybox-static is not installed")?;
    let text = format!(
        "FROM scratch\nCOPY hello /\nCOPY files /files\n{steps}ENTRYPOINT [\"/hello\", \"--once\"]\n"
    );
    Ok(std::fs::write(context.join("Containerfile"), text)?)
}

/// Punnet on the disk.
pub struct Device<'a> {
    punnet: &'a Path,
    data: PathBuf,
    run: PathBuf,
    images: &'a Images,
}

impl<'a> Device<'a> {
    /// On the disk that is mounted there.
    pub fn new(punnet: &'a Path, disk: &Path, run: &Path, images: &'a Images) -> Self {
        Self {
            punnet,
            data: disk.join("data"),
            run: run.into(),
            images,
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.punnet);
        command
            .arg("--data-root")
            .arg(&self.data)
            .arg("--run-root")
            .arg(&self.run);
        command.args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        stdout_of(&mut self.command(words))
    }

    fn pull(&self, tag: &str, name: &str, options: &[&str]) -> Result<String> {
        let reference = self.images.reference(name);
        let words = ["pull", "--quiet", "--insecure", "--tag", tag];
        self.run(&[&words, options, &[&reference]].concat())
    }

    /// The last-known-good image, and the old one under the name that is upgraded. It is on the disk by Punnet's own doing, not by a sync of ours.
    pub fn prepare(&self) -> Result<()> {
        self.run(&["load", "--tag", "good", &self.images.archive("good")])?;
        self.run(&["load", "--tag", "app", &self.images.archive("old")])?;
        Ok(())
    }

    /// Works until told to stop, beginning with the piece of this number; returns how many pieces were done.
    pub fn go_on(&self, first: usize, stop: &AtomicBool) -> Result<u32> {
        let context = self.images.context();
        let load = |name| self.run(&["load", "--tag", "app", &self.images.archive(name)]);
        let build = || self.run(&["build", "--tag", "built", &context]);
        let remove = |name| self.run(&["rmi", name]);
        let prune = || self.run(&["prune"]);
        // Each piece can be the first after a check, and leaves only what the others may find.
        let pieces: [&dyn Fn() -> Result<String>; 6] = [
            &|| {
                self.pull("app", "new", &[])
                    .and_then(|_| self.pull("app", "old", &[]))
            },
            &|| load("new").and_then(|_| prune()).and_then(|_| load("old")),
            &|| build().and_then(|_| build()).and_then(|_| remove("built")),
            &|| {
                self.pull("pulled", "new", &["--keep-partial"])
                    .and_then(|_| remove("pulled"))
            },
            &|| {
                self.run(&["tag", "good", "another"])
                    .and_then(|_| remove("another"))
            },
            &prune,
        ];
        let mut done = 0;
        for piece in pieces.iter().cycle().skip(first % pieces.len()) {
            if stop.load(Ordering::Relaxed) || interrupted() {
                break;
            }
            piece()?;
            done += 1;
        }
        Ok(done)
    }

    /// What must be true after every cut.
    pub fn check(&self, tally: &mut Tally) -> Result<()> {
        let rows = self.json(&["images", "--json"])?;
        let rows = rows.as_array().context("images --json is a list")?;
        let name_of = |row: &serde_json::Value| row["reference"].as_str().unwrap_or("<none>").to_owned();
        let app = rows.iter().find(|row| name_of(row).starts_with("app:"));
        let is = app.context("app is gone")?["manifest"]
            .as_str()
            .unwrap_or_default();
        let which = match is {
            is if is == self.images.old => "old",
            is if is == self.images.new => "new",
            _ => bail!("app is neither the old nor the new image: {is}"),
        };
        let mut names: Vec<_> = rows.iter().map(name_of).collect();
        names.push(format!("app={which}"));
        names.extend(self.leftovers()?.into_iter().map(|part| format!("({part})")));
        tally.count(names);
        self.run(&["verify"])
            .context("what claims to be there is damaged")?;
        for name in ["good", "app"] {
            self.run(&["inspect", name])?;
            let output = output_of(&mut self.command(&["run", "--rm", name]))?;
            ensure!(
                output.status.success() && !output.stdout.is_empty(),
                "{name} does not run: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let built = self.run(&["build", "--tag", "rebuilt", &self.images.context()])?;
        ensure!(
            built.trim() == self.images.built,
            "a build from the cache gave {built}"
        );
        self.pull("again", "new", &["--keep-partial"])
            .context("a pull cannot be ended")?;
        self.run(&["verify"])?;
        for name in ["rebuilt", "again"] {
            self.run(&["rmi", name])?;
        }
        self.run(&["prune"])?;
        self.assert_nothing_leaked()?;
        self.run(&["load", "--tag", "app", &self.images.archive("new")])?;
        self.run(&["verify"])?;
        Ok(())
    }

    fn json(&self, words: &[&str]) -> Result<serde_json::Value> {
        let mut command = self.command(words);
        let text = stdout_of(&mut command)?;
        serde_json::from_str(&text).with_context(|| format!("{} printed no JSON", shown(&command)))
    }

    /// What a cut has left that a store at rest has not.
    fn leftovers(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for folder in ["store/staging", "build/work", "store/partial"] {
            let path = self.data.join(folder);
            if path.exists() && std::fs::read_dir(&path)?.next().is_some() {
                found.push(folder.to_owned());
            }
        }
        Ok(found)
    }

    fn assert_nothing_leaked(&self) -> Result<()> {
        let usage = self.json(&["du", "--json"])?;
        ensure!(usage["garbage_bytes"] == 0, "prune leaves {usage}");
        let mut left = self.leftovers()?;
        for folder in ["store", "", "build", "build/cache", "build/work"] {
            let folder = self.data.join(folder);
            // Nothing was built yet when the power went.
            if !folder.exists() {
                continue;
            }
            for entry in std::fs::read_dir(&folder)? {
                left.push(entry?.file_name().to_string_lossy().into_owned());
            }
        }
        left.retain(|part| !PARTS.contains(&part.as_str()));
        ensure!(left.is_empty(), "left behind: {}", left.join(", "));
        Ok(())
    }
}

/// In which states the cuts have found the store: that they come at different moments is to be seen.
#[derive(Default, Deserialize, Serialize)]
pub struct Tally(std::collections::BTreeMap<String, u32>);

impl Tally {
    fn count(&mut self, mut names: Vec<String>) {
        names.sort();
        *self.0.entry(names.join("+")).or_default() += 1;
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: Self) {
        for (state, count) in other.0 {
            *self.0.entry(state).or_default() += count;
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let states: Vec<_> = self
            .0
            .iter()
            .map(|(names, count)| format!("{count} with {names}"))
            .collect();
        write!(out, "{}", states.join(", "))
    }
}
