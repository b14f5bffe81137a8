//! RUN: what is to be executed, in which tree, and what has come of it. Executing itself is the [`Worker`]'s.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::SystemTime;

use super::containerfile::{Instruction, Run};
use super::disk::Disk;
use super::stage::{Stage, StageLayer, key_of};
use super::{Shop, Worker, plan};
use crate::oci::ContainerConfig;
use crate::users::Users;
use crate::{Error, Platform, Result};

/// Where a script of a here-document is seen by the step.
pub const SCRIPT_PATH: &str = "/.punnet-script";

/// One command to execute in a container of its own.
#[derive(Debug)]
pub struct RunStep {
    /// Trees under the root file system, the uppermost first.
    pub lowers: Vec<PathBuf>,
    /// An empty directory of its own: `upper/`, which gets what it changes, and `work/` are in it.
    pub folder: PathBuf,
    /// Program and arguments.
    pub command: Vec<String>,
    /// A file that is to be seen at [`SCRIPT_PATH`].
    pub script: Option<PathBuf>,
    /// Its environment, user and working directory.
    pub config: ContainerConfig,
    /// Who there is.
    pub users: Users,
    /// What its programs are for.
    pub platform: Platform,
    /// It gets no network.
    pub is_offline: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Exit status; 128 and the number of the signal that ended it.
    pub code: u8,
    /// Paths that something was mounted over, which is none of the step's doing.
    pub mounted: Vec<String>,
}

impl Stage {
    /// Executes a command, or finds what it has done before. Returns whether it changed anything.
    pub fn run(
        &mut self,
        run: &Run,
        instruction: &Instruction,
        shop: &Shop<'_>,
        worker: &mut dyn Worker,
    ) -> Result<bool> {
        let mut step = RunStep {
            lowers: Vec::new(),
            folder: PathBuf::new(),
            command: self.words(&run.command),
            script: None,
            config: self.environment(shop),
            users: Users::default(),
            platform: self.platform.clone(),
            is_offline: run.is_offline || shop.options.is_offline,
        };
        let mut script_file = None;
        if let Some(script) = &run.script {
            let text = script.text();
            if text.starts_with("#!") {
                step.command = vec![SCRIPT_PATH.into()];
                script_file = Some(text);
            } else {
                step.command = self.shell();
                step.command.push(text);
            }
        }
        let config = String::from_utf8_lossy(&crate::oci::to_json(&step.config)).into_owned();
        let mut words: Vec<&str> = vec!["run", &config];
        let (key, platform) = (self.key.hex(), step.platform.to_string());
        words.extend([key.as_str(), platform.as_str()]);
        words.push(if step.is_offline { "offline" } else { "online" });
        words.push(script_file.as_deref().unwrap_or_default());
        words.extend(step.command.iter().map(String::as_str));
        let key = key_of(&words);
        let known = shop.cache.as_ref().and_then(|cache| cache.find_upper(&key));
        let (upper, nonce) = match known {
            Some(known) => {
                worker.tell(super::Event::Cached);
                known
            }
            None => {
                step.folder = shop.make_folder("run")?;
                let upper = self.execute(&mut step, script_file, instruction, shop, worker)?;
                let nonce = nonce(&upper);
                let upper = match &shop.cache {
                    Some(cache) => cache.put_upper(&key, &upper, &nonce)?,
                    None => upper,
                };
                (upper, nonce)
            }
        };
        self.key = key_of(&["ran", &key.hex(), &nonce]);
        let disk = Disk::open(&upper)?;
        if disk.is_empty()? {
            return Ok(false);
        }
        disk.enter_into(&mut self.tree, self.layers.len())?;
        self.layers.push(StageLayer::Ran(upper, self.key));
        Ok(true)
    }

    fn execute(
        &self,
        step: &mut RunStep,
        script: Option<String>,
        instruction: &Instruction,
        shop: &Shop<'_>,
        worker: &mut dyn Worker,
    ) -> Result<PathBuf> {
        step.users = self.users(shop)?;
        step.lowers = self.directories(shop)?;
        step.lowers.reverse();
        if step.lowers.is_empty() {
            // overlayfs wants something below, however empty.
            step.lowers.push(shop.make_folder("nothing")?);
        }
        if let Some(text) = script {
            let path = step.folder.join("script");
            fs::write(&path, text).map_err(Error::at("write", &path))?;
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&path, mode).map_err(Error::at("write", &path))?;
            step.script = Some(path);
        }
        for name in ["upper", "work"] {
            let path = step.folder.join(name);
            fs::create_dir(&path).map_err(Error::at("create", &path))?;
            // The upper directory is the root directory that the step sees.
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&path, mode).map_err(Error::at("protect", &path))?;
        }
        let ran = worker.run(step)?;
        if ran.code != 0 {
            let why = format!("the command ended with exit status {}", ran.code);
            return Err(instruction.error(why));
        }
        let upper = step.folder.join("upper");
        Disk::open(&upper)?.tidy(&self.tree, &ran.mounted)?;
        Ok(upper)
    }

    /// ENV, under it the ARGs, and the proxies that need no ARG.
    fn environment(&self, shop: &Shop<'_>) -> ContainerConfig {
        let given = shop.options.build_args.iter();
        let proxies = given.filter(|(name, _)| plan::is_proxy(name)).cloned();
        let arguments = self.arguments.clone().into_iter().chain(proxies);
        let mut env: Vec<String> = arguments.map(|(name, value)| format!("{name}={value}")).collect();
        let is_env = |pair: &String| {
            let name = pair.split('=').next();
            self.config
                .env
                .iter()
                .any(|other| other.split('=').next() == name)
        };
        env.retain(|pair| !is_env(pair));
        env.extend(self.config.env.iter().cloned());
        ContainerConfig {
            env,
            user: self.config.user.clone(),
            working_dir: self.config.working_dir.clone(),
            ..ContainerConfig::default()
        }
    }
}

/// A word that no other execution has.
fn nonce(upper: &std::path::Path) -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}-{}-{}", std::process::id(), now.as_nanos(), upper.display())
}
