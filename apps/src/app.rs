//! One app file, checked: the fleet's form of an app (fleet/src/spec.rs), with the image in it and `after`.

use punnet_protocol::{
    ARGS_BYTES_MAX, DEVICE_CLASSES_MAX, ENV_BYTES_MAX, MOUNTS_MAX, Name, PATH_BYTES_MAX, REFERENCE_BYTES_MAX,
};

use crate::FILE_BYTES_MAX;
use crate::yaml::{self, FileError, Node, Place, Result, Value};

/// Every key of an app file.
pub const KEYS: [&str; 15] = [
    "image",
    "entrypoint",
    "args",
    "env",
    "network",
    "restart",
    "memory_bytes_max",
    "pids_max",
    "cpu_millis_max",
    "device_classes",
    "mounts",
    "read_only",
    "stop_timeout_ms",
    "soak_ms",
    "after",
];

/// When the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// It stays ended.
    Never,
    /// Started again when it failed.
    OnFailure,
    /// Started again however it ended.
    Always,
}

/// A bind mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path on the board.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    /// The container cannot write to it.
    pub read_only: bool,
}

/// An app as its file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Of the file; also the container's.
    pub name: Name,
    /// A reference: taken from the store, else pulled.
    pub image: String,
    /// Replaces the image's entrypoint when not empty.
    pub entrypoint: Vec<String>,
    /// Replaces the image's command when not empty.
    pub args: Vec<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// The board's own network.
    pub host_network: bool,
    /// When the process ends.
    pub restart: Restart,
    /// Upper limit of memory, bytes.
    pub memory_bytes_max: Option<u64>,
    /// Upper limit of processes.
    pub pids_max: Option<u32>,
    /// Upper limit of CPU, thousandths of one.
    pub cpu_millis_max: Option<u32>,
    /// Device classes of the board.
    pub device_classes: Vec<String>,
    /// Bind mounts.
    pub mounts: Vec<Mount>,
    /// No writable layer.
    pub read_only: bool,
    /// Between the stop signal and SIGKILL.
    pub stop_timeout_ms: u32,
    /// A process that ran so long has not failed to start: the next pause is short again.
    pub soak_ms: u32,
    /// Apps that are started before this one, and where that is said.
    pub after: Vec<(Name, Place)>,
}

impl App {
    /// Reads and checks a file.
    pub fn parse(name: &Name, text: &str) -> Result<Self> {
        let begin = Place { line: 1, column: 1 };
        if text.len() > FILE_BYTES_MAX {
            return Err(FileError::at(
                begin,
                format!("larger than {FILE_BYTES_MAX} bytes"),
            ));
        }
        let root = yaml::parse(text)?;
        let Value::Map(entries) = root.value else {
            return Err(FileError::at(
                root.place,
                "an app file is KEY: VALUE lines, image: first of all",
            ));
        };
        // What the fleet takes when nothing is said (fleet/src/spec.rs).
        let mut app = Self {
            name: name.clone(),
            image: String::new(),
            entrypoint: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            host_network: false,
            restart: Restart::Always,
            memory_bytes_max: None,
            pids_max: None,
            cpu_millis_max: None,
            device_classes: Vec::new(),
            mounts: Vec::new(),
            read_only: false,
            stop_timeout_ms: 10_000,
            soak_ms: 5_000,
            after: Vec::new(),
        };
        for (place, key, value) in &entries {
            app.take(*place, key, value)?;
        }
        if app.image.is_empty() {
            return Err(FileError::at(begin, "image: is missing"));
        }
        Ok(app)
    }

    fn take(&mut self, place: Place, key: &str, value: &Node) -> Result<()> {
        match key {
            "image" => self.image = text(value, REFERENCE_BYTES_MAX)?,
            "entrypoint" => self.entrypoint = texts(value, ARGS_BYTES_MAX)?,
            "args" => self.args = texts(value, ARGS_BYTES_MAX)?,
            "env" => self.env = environment(value)?,
            "network" => self.host_network = word(value, &[("none", false), ("host", true)])?,
            "restart" => {
                self.restart = word(
                    value,
                    &[
                        ("never", Restart::Never),
                        ("on-failure", Restart::OnFailure),
                        ("always", Restart::Always),
                    ],
                )?;
            }
            "memory_bytes_max" => self.memory_bytes_max = optional(value, u64::MAX)?,
            "pids_max" => self.pids_max = narrow(optional(value, u32::MAX.into())?),
            "cpu_millis_max" => self.cpu_millis_max = narrow(optional(value, u32::MAX.into())?),
            "device_classes" => {
                self.device_classes = items(value, DEVICE_CLASSES_MAX)?
                    .iter()
                    .map(|item| text(item, 32))
                    .collect::<Result<_, _>>()?;
            }
            "mounts" => {
                self.mounts = items(value, MOUNTS_MAX)?
                    .iter()
                    .map(mount)
                    .collect::<Result<_, _>>()?;
            }
            "read_only" => self.read_only = word(value, &BOOLEANS)?,
            "stop_timeout_ms" => self.stop_timeout_ms = number(value, u32::MAX.into())? as u32,
            "soak_ms" => self.soak_ms = number(value, u32::MAX.into())? as u32,
            "after" => {
                self.after = items(value, punnet_protocol::APPS_MAX)?
                    .iter()
                    .map(|item| Ok((name(item)?, item.place)))
                    .collect::<Result<_>>()?;
            }
            _ => {
                return Err(FileError::at(
                    place,
                    format!("there is no key {key:?}; there are: {}", KEYS.join(", ")),
                ));
            }
        }
        Ok(())
    }

    /// What `punnet create` is told, besides name, labels and how to fetch: options, image, arguments. The same app is the same text.
    pub fn create_args(&self) -> Vec<String> {
        let mut args = Vec::new();
        let mut option = |name: &str, value: String| args.extend([name.to_owned(), value]);
        option(
            "--network",
            if self.host_network { "host" } else { "none" }.into(),
        );
        if let Some(bytes) = self.memory_bytes_max {
            option("--memory", bytes.to_string());
        }
        if let Some(pids) = self.pids_max {
            option("--pids-limit", pids.to_string());
        }
        if let Some(millis) = self.cpu_millis_max {
            option("--cpus", format!("{}.{:03}", millis / 1000, millis % 1000));
        }
        for pair in &self.env {
            option("--env", pair.clone());
        }
        for class in &self.device_classes {
            option("--device-class", class.clone());
        }
        for mount in &self.mounts {
            let mode = if mount.read_only { ":ro" } else { "" };
            option("--volume", format!("{}:{}{mode}", mount.source, mount.target));
        }
        option("--stop-timeout", self.stop_timeout_ms.div_ceil(1000).to_string());
        let mut entrypoint = self.entrypoint.iter();
        if let Some(program) = entrypoint.next() {
            option("--entrypoint", program.clone());
        }
        if self.read_only {
            args.push("--read-only".into());
        }
        args.push(self.image.clone());
        // As with Docker, an entrypoint given puts the image's command out of force: what is left of ours comes first.
        args.extend(entrypoint.chain(&self.args).cloned());
        args
    }
}

/// What is wrong with the order that these apps ask for, by app: a name that no file has (`known` has those of bad files, too), or a circle.
pub fn order_errors(apps: &[App], known: &[Name]) -> Vec<(Name, Box<FileError>)> {
    let of = |name: &Name| apps.iter().find(|app| app.name == *name);
    let mut errors = Vec::new();
    for app in apps {
        for (after, place) in &app.after {
            if !known.contains(after) {
                errors.push((
                    app.name.clone(),
                    FileError::at(*place, format!("no file here is named {after}.yaml")),
                ));
                break;
            }
            // Everything that comes before `after`; a circle is found when it comes back.
            let (mut seen, mut next) = (vec![after], 0);
            while let Some(name) = seen.get(next) {
                let before = of(name).map_or(&[][..], |app| &app.after);
                for (name, _) in before {
                    if !seen.contains(&name) {
                        seen.push(name);
                    }
                }
                next += 1;
            }
            if seen.contains(&&app.name) {
                errors.push((
                    app.name.clone(),
                    FileError::at(*place, format!("{after} comes after {} itself", app.name)),
                ));
                break;
            }
        }
    }
    errors
}

const BOOLEANS: [(&str, bool); 2] = [("true", true), ("false", false)];

fn string(node: &Node) -> Result<&str> {
    match &node.value {
        Value::Text(text) if text.contains('\0') => Err(FileError::at(node.place, "a NUL byte")),
        Value::Text(text) => Ok(text),
        Value::Nothing => Err(FileError::at(node.place, "a value is missing here")),
        _ => Err(FileError::at(node.place, "one value is wanted here")),
    }
}

fn text(node: &Node, bytes_max: usize) -> Result<String> {
    match string(node)? {
        "" => Err(FileError::at(node.place, "empty")),
        text if text.len() > bytes_max => Err(FileError::at(
            node.place,
            format!("longer than {bytes_max} bytes"),
        )),
        text => Ok(text.to_owned()),
    }
}

fn items(node: &Node, most: usize) -> Result<&[Node]> {
    match &node.value {
        Value::List(items) if items.len() > most => {
            Err(FileError::at(node.place, format!("more than {most}")))
        }
        Value::List(items) => Ok(items),
        Value::Nothing => Ok(&[]),
        _ => Err(FileError::at(node.place, "a list is wanted here: [a, b]")),
    }
}

/// As execve(2) takes them: each with its NUL byte.
fn texts(node: &Node, bytes_max: usize) -> Result<Vec<String>> {
    let mut bytes = 0;
    let mut texts = Vec::new();
    for item in items(node, bytes_max)? {
        let text = string(item)?;
        bytes += text.len() + 1;
        if bytes > bytes_max {
            return Err(FileError::at(
                item.place,
                format!("the texts together are longer than {bytes_max} bytes"),
            ));
        }
        texts.push(text.to_owned());
    }
    Ok(texts)
}

fn environment(node: &Node) -> Result<Vec<String>> {
    let pairs = texts(node, ENV_BYTES_MAX)?;
    let is_bad = |pair: &String| !pair.contains('=') || pair.starts_with('=');
    match pairs.iter().position(is_bad) {
        Some(at) => Err(FileError::at(
            items(node, ENV_BYTES_MAX)?[at].place,
            "write KEY=VALUE",
        )),
        None => Ok(pairs),
    }
}

fn word<T: Copy>(node: &Node, words: &[(&str, T)]) -> Result<T> {
    let given = string(node)?;
    let found = words.iter().find(|(word, _)| *word == given);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        FileError::at(node.place, format!("{given:?} is none of {}", words.join(", ")))
    })
}

fn number(node: &Node, most: u64) -> Result<u64> {
    let given = string(node)?;
    let is_number = given.bytes().all(|byte| byte.is_ascii_digit());
    let number = given.parse().ok().filter(|number| is_number && *number <= most);
    number.ok_or_else(|| FileError::at(node.place, format!("{given:?} is no whole number up to {most}")))
}

/// As JSON says that there is no limit.
fn optional(node: &Node, most: u64) -> Result<Option<u64>> {
    match &node.value {
        Value::Text(text) if text == "null" => Ok(None),
        _ => number(node, most).map(Some),
    }
}

fn narrow(number: Option<u64>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
}

fn name(node: &Node) -> Result<Name> {
    let given = string(node)?;
    given
        .parse()
        .map_err(|why: punnet_protocol::NameError| FileError::at(node.place, format!("{given:?}: {why}")))
}

fn mount(node: &Node) -> Result<Mount> {
    let Value::Map(entries) = &node.value else {
        return Err(FileError::at(
            node.place,
            "a mount is {source: PATH, target: PATH, read_only: true}",
        ));
    };
    let mut mount = Mount {
        source: String::new(),
        target: String::new(),
        read_only: false,
    };
    for (place, key, value) in entries {
        match key.as_str() {
            "source" => mount.source = path(value)?,
            "target" => mount.target = path(value)?,
            "read_only" => mount.read_only = word(value, &BOOLEANS)?,
            _ => {
                return Err(FileError::at(
                    *place,
                    format!("a mount has source, target and read_only, no {key:?}"),
                ));
            }
        }
    }
    if mount.source.is_empty() || mount.target.is_empty() {
        return Err(FileError::at(node.place, "a mount has both source and target"));
    }
    Ok(mount)
}

fn path(node: &Node) -> Result<String> {
    let path = text(node, PATH_BYTES_MAX)?;
    if !path.starts_with('/') || path.contains(':') {
        return Err(FileError::at(
            node.place,
            "an absolute path without a colon is wanted here",
        ));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "\
# Everything that there is.
image: registry.example/web:1
entrypoint: [/bin/web, -x]
args:
  - one
  - \"two words\"
env: [A=b c, EMPTY=]
network: host
restart: on-failure
memory_bytes_max: 1048576
pids_max: 9
cpu_millis_max: 1250
device_classes: [gpio]
mounts:
  - source: /srv/web
    target: /data
    read_only: true
  - {source: /etc/x, target: /x}
read_only: true
stop_timeout_ms: 1001
soak_ms: 100
after: [db]
";

    fn parse(text: &str) -> Result<App> {
        App::parse(&"web".parse().unwrap(), text)
    }

    #[test]
    fn every_key_is_read_and_reaches_create() {
        let app = parse(WHOLE).unwrap();
        assert_eq!(
            app.create_args().join("|"),
            "--network|host|--memory|1048576|--pids-limit|9|--cpus|1.250|--env|A=b c|--env|EMPTY=|--device-class|gpio|\
             --volume|/srv/web:/data:ro|--volume|/etc/x:/x|--stop-timeout|2|--entrypoint|/bin/web|--read-only|\
             registry.example/web:1|-x|one|two words"
        );
        assert_eq!((app.restart, app.soak_ms), (Restart::OnFailure, 100));
        assert_eq!(app.after[0].0.as_str(), "db");
        assert!(KEYS.iter().all(|key| WHOLE.contains(&format!("{key}:"))));
    }

    #[test]
    fn an_image_is_enough() {
        let app = parse("image: web\n").unwrap();
        assert_eq!(
            app.create_args(),
            ["--network", "none", "--stop-timeout", "10", "web"]
        );
        assert_eq!(app.restart, Restart::Always);
        assert_eq!(parse(r#"{"image": "web", "pids_max": null}"#).unwrap(), app);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let cases = [
            ("", "line 1, column 1: an app file is"),
            ("args: []\n", "image: is missing"),
            (
                "image: web\nimagee: x\n",
                "line 2, column 1: there is no key \"imagee\"",
            ),
            ("image: [a]\n", "line 1, column 8: one value"),
            ("image:\n", "a value is missing here"),
            (
                "image: web\nenv: [A=1, B]\n",
                "line 2, column 12: write KEY=VALUE",
            ),
            (
                "image: web\nrestart: no\n",
                "line 2, column 10: \"no\" is none of never, on-failure, always",
            ),
            (
                "image: web\nmemory_bytes_max: 64m\n",
                "line 2, column 19: \"64m\" is no whole number",
            ),
            ("image: web\npids_max: 4294967296\n", "up to 4294967295"),
            ("image: web\nread_only: yes\n", "none of true, false"),
            ("image: web\nmounts: [/a:/b]\n", "line 2, column 10: a mount is"),
            (
                "image: web\nmounts: [{source: /a}]\n",
                "line 2, column 10: a mount has both",
            ),
            (
                "image: web\nmounts: [{source: a, target: /b}]\n",
                "line 2, column 19: an absolute path",
            ),
            (
                "image: web\nmounts:\n  - source: /a\n    target: /b\n    mode: ro\n",
                "line 5, column 5: a mount has",
            ),
            (
                "image: web\nafter: [Big]\n",
                "line 2, column 9: \"Big\": a name is",
            ),
            ("image: web\nargs: web\n", "line 2, column 7: a list is wanted"),
        ];
        for (text, want) in cases {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text:?} gave {error:?}");
        }
        let long = format!("image: web\nargs: [{}]\n", "x".repeat(2000));
        assert!(parse(&long).unwrap_err().what.contains("longer than 1024"));
        assert!(
            parse(&"#".repeat(FILE_BYTES_MAX + 1))
                .unwrap_err()
                .what
                .contains("larger")
        );
    }

    #[test]
    fn an_order_that_cannot_be_is_named() {
        let app = |name: &str, after: &str| {
            App::parse(&name.parse().unwrap(), &format!("image: x\nafter: [{after}]\n")).unwrap()
        };
        let apps = [
            app("a", "b"),
            app("b", "c"),
            app("c", "a"),
            app("d", "a"),
            app("e", "gone"),
            app("f", "bad"),
        ];
        let mut known: Vec<Name> = apps.iter().map(|app| app.name.clone()).collect();
        known.push("bad".parse().unwrap());
        let errors = order_errors(&apps, &known);
        let names: Vec<_> = errors.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "e"]);
        assert!(
            errors[0]
                .1
                .to_string()
                .contains("line 2, column 9: b comes after a itself")
        );
        assert!(errors[3].1.what.contains("no file here is named gone.yaml"));
    }
}
