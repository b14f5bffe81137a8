//! A context to build from, and ways to look at what came out.

use punnet_images::build::{self, BuildOptions, BuildPlace, Event, Ran, RunStep, Worker};
pub use punnet_images::chain;
use punnet_images::oci::{Descriptor, ImageConfig, Manifest};
use punnet_images::{Error, Image, Platform, Reference, Source, Store};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A folder with `context/`, in which a build is tried.
pub struct Bench {
    pub folder: TempDir,
    /// Steps are remembered.
    pub caches: bool,
}

/// Has a store, and executes nothing.
pub struct Hands {
    store: PathBuf,
    pub cached: usize,
}

impl Hands {
    /// With the store there.
    pub fn of(store: &Path) -> Self {
        Self {
            store: store.into(),
            cached: 0,
        }
    }
}

impl Worker for Hands {
    fn image(&mut self, name: &Reference, _: &Platform) -> Result<Image, Box<Error>> {
        Store::open(&self.store)?.get(&name.to_string())
    }

    fn run(&mut self, step: &RunStep) -> Result<Ran, Box<Error>> {
        panic!("nothing is executed here: {step:?}");
    }

    fn tell(&mut self, event: Event<'_>) {
        self.cached += usize::from(event == Event::Cached);
    }
}

/// A finished build.
pub struct BuiltImage {
    pub layout: PathBuf,
    pub descriptor: Descriptor,
    pub manifests: Vec<Descriptor>,
    pub source: Source,
    pub manifest: Manifest,
    pub config: ImageConfig,
}

/// What a layer says about one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub mode: u32,
    pub owner: (u64, u64),
    pub mtime: u64,
    /// Content of a file, target of a link.
    pub data: String,
}

impl Bench {
    /// The files of the context, made in the order given; a name that ends with `/` is a directory.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let bench = Self {
            folder: TempDir::new().unwrap(),
            caches: false,
        };
        fs::create_dir(bench.context()).unwrap();
        for (name, content) in files {
            let path = bench.context().join(name);
            if name.ends_with('/') {
                fs::create_dir_all(&path).unwrap();
                continue;
            }
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        bench
    }

    pub fn context(&self) -> PathBuf {
        self.folder.path().join("context")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Options for this context and an x86-64 image.
    pub fn options(&self) -> BuildOptions {
        BuildOptions {
            context: self.context(),
            platforms: vec!["linux/amd64".parse::<Platform>().unwrap()],
            ..BuildOptions::default()
        }
    }

    /// Builds `FROM scratch` and these lines.
    pub fn build(&self, lines: &str) -> Result<BuiltImage, Box<Error>> {
        self.build_file(&format!("FROM scratch\n{lines}"), &self.options())
    }

    /// Builds a whole Containerfile, which lies outside of the context.
    pub fn build_file(&self, text: &str, options: &BuildOptions) -> Result<BuiltImage, Box<Error>> {
        let file = self.path("Containerfile");
        fs::write(&file, text).unwrap();
        let options = BuildOptions {
            containerfile: Some(file),
            ..options.clone()
        };
        let scratch = tempfile::Builder::new()
            .prefix("scratch")
            .tempdir_in(self.folder.path())
            .unwrap()
            .keep();
        let place = BuildPlace {
            scratch,
            cache: self.caches.then(|| self.path("cache")),
        };
        let mut hands = Hands::of(&self.path("store"));
        let built = build::build(&options, &place, &mut hands)?;
        let source = Source::open(place.layout())?;
        let (manifest, config) = source.read_manifest(&built.manifests[0])?;
        Ok(BuiltImage {
            layout: place.layout(),
            descriptor: built.image,
            manifests: built.manifests,
            source,
            manifest,
            config,
        })
    }

    /// The error of a build that must fail, with its causes.
    pub fn refusal(&self, lines: &str) -> String {
        match self.build(lines) {
            Ok(_) => panic!("{lines:?} was built"),
            Err(error) => chain(&error),
        }
    }
}

impl BuiltImage {
    /// The paths of all layers, later ones over earlier ones; directories end with `/`.
    pub fn paths(&self) -> BTreeMap<String, Shown> {
        let mut paths = BTreeMap::new();
        for layer in &self.manifest.layers {
            let blob = self.source.blob_of(layer).unwrap();
            let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(blob));
            for entry in archive.entries().unwrap() {
                let mut entry = entry.unwrap();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                let mut data = String::from_utf8_lossy(&bytes).into_owned();
                if let Some(target) = entry.link_name().unwrap() {
                    data = target.display().to_string();
                }
                let header = entry.header();
                let shown = Shown {
                    mode: header.mode().unwrap(),
                    owner: (header.uid().unwrap(), header.gid().unwrap()),
                    mtime: header.mtime().unwrap(),
                    data,
                };
                paths.insert(String::from_utf8(entry.path_bytes().to_vec()).unwrap(), shown);
            }
        }
        paths
    }

    /// Paths of files and links with their content.
    pub fn files(&self) -> Vec<(String, String)> {
        let files = self.paths().into_iter().filter(|(path, _)| !path.ends_with('/'));
        files.map(|(path, shown)| (path, shown.data)).collect()
    }
}

/// Every file below a folder with its bytes.
pub fn bytes_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(
                    path.strip_prefix(folder).unwrap().to_owned(),
                    fs::read(&path).unwrap(),
                );
            }
        }
    }
    files
}

/// All that can be told of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Content of a file, target of a link.
    pub data: Vec<u8>,
}

/// All paths of a tree, the root too, with all that can be told of them.
pub fn facts_below(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut all = BTreeMap::new();
    let mut paths = vec![root.to_owned()];
    while let Some(path) = paths.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let (mut data, mut xattrs) = (Vec::new(), Vec::new());
        if found.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if found.is_file() {
            data = fs::read(&path).unwrap();
        } else if found.is_symlink() {
            data = fs::read_link(&path)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes();
        }
        if found.is_dir() || found.is_file() {
            xattrs = xattrs_of(&path);
        }
        let facts = Facts {
            mode: found.mode(),
            owner: (found.uid(), found.gid()),
            mtime: (found.mtime(), found.mtime_nsec()),
            xattrs,
            data,
        };
        all.insert(path.strip_prefix(root).unwrap().to_owned(), facts);
    }
    all
}

fn xattrs_of(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    use std::os::fd::AsFd;
    let file = fs::File::open(path).unwrap();
    let mut names = vec![0; 65_536];
    let count = punnet_sys::flistxattr(file.as_fd(), &mut names).unwrap();
    let value_of = |name: &[u8]| {
        let mut value = vec![0; 65_536];
        let c_name = std::ffi::CString::new(name).unwrap();
        let count = punnet_sys::fgetxattr(file.as_fd(), &c_name, &mut value).unwrap();
        value.truncate(count);
        (name.to_owned(), value)
    };
    let mut all: Vec<_> = names[..count]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(value_of)
        .collect();
    all.sort();
    all
}

/// Runs a tool that must succeed; `None`, and a line that says so, when this machine lacks it.
pub fn tool(name: &str, arguments: &[&str]) -> Option<String> {
    let output: Output = match Command::new(name).args(arguments).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("SKIPPED: {name} is not installed");
            return None;
        }
        other => other.unwrap(),
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {errors}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Bytes that do not compress, the same every time.
pub fn noise(count: usize) -> Vec<u8> {
    let mut state = 1u64;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// A mount that goes with this value.
pub struct Mounted(pub PathBuf);

impl Mounted {
    pub fn tmpfs(at: &Path, options: &str) -> Self {
        fs::create_dir(at).unwrap();
        tool(
            "mount",
            &["-t", "tmpfs", "-o", options, "tmpfs", at.to_str().unwrap()],
        )
        .unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a process that another test is just starting has our files until it is executed.
        tool("umount", &["--lazy", self.0.to_str().unwrap()]);
    }
}

/// Text that differs with its number and compresses little.
pub fn noise_text(number: usize, count: usize) -> String {
    let digits =
        |(at, byte): (usize, u8)| char::from(b'a' + (usize::from(byte) + number * (at % 13)) as u8 % 26);
    noise(count).into_iter().enumerate().map(digits).collect()
}
