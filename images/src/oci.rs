//! OCI image-spec 1.1 documents: descriptor, manifest, index, image configuration. Docker's schema 2 has the same shapes.
//!
//! Unknown fields are ignored, as the specification asks. Every document is at most [`DOCUMENT_BYTES_MAX`] long and is checked once,
//! here: what comes out of a `from_json` has the right schema version, a supported media type and a bounded number of parts.
//!
//! <https://github.com/opencontainers/image-spec/blob/main/spec.md>

use crate::{Digest, Error, Result};
use punnet_json::{FromJson, Map, ToJson};

/// Bytes of a manifest, an index or a configuration: what registries must accept by the distribution specification.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Layers of one image. Docker stops at 127; a bound is needed, not a tight one, since layers are unpacked one after another.
pub const LAYERS_MAX: usize = 1024;
/// Entries of one index: platforms times attestations, with much room.
pub const INDEX_ENTRIES_MAX: usize = 1024;

/// Media types we read and write.
pub mod media_type {
    /// OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer without compression.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A gzip layer.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A zstd layer.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker schema 2 manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer without compression.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker gzip layer.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

    /// Docker zstd layer.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

    /// The OCI name of the same kind of layer.
    pub fn oci_layer(text: &str) -> &str {
        match text {
            DOCKER_LAYER => LAYER,
            DOCKER_LAYER_GZIP => LAYER_GZIP,
            DOCKER_LAYER_ZSTD => LAYER_ZSTD,
            other => other,
        }
    }

    /// Whether it names a manifest.
    pub fn is_manifest(text: &str) -> bool {
        matches!(text, MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether it names an index.
    pub fn is_index(text: &str) -> bool {
        matches!(text, INDEX | DOCKER_INDEX)
    }
}

/// Annotation that carries the name of an image in a layout's index.json.
pub const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation with which containerd and Docker carry the whole reference.
pub const ANNOTATION_IMAGE_NAME: &str = "io.containerd.image.name";

/// The compression of a layer, by its media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip, one or more members.
    Gzip,
    /// zstd, one or more frames.
    Zstd,
}

/// Points to a blob.
#[derive(Clone, Debug, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    #[json(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What the manifest behind it runs on; only in an index.
    #[json(default, skip_if_empty)]
    pub platform: Option<Platform>,
    /// Free key-value pairs.
    #[json(default, null_is_default, skip_if_empty)]
    pub annotations: Map<String>,
}

impl Descriptor {
    /// A descriptor of these bytes.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            platform: None,
            annotations: Map::new(),
        }
    }

    /// The layer's compression, or why this layer cannot be read.
    pub fn compression(&self) -> Result<Compression> {
        use media_type::*;
        match self.media_type.as_str() {
            LAYER | DOCKER_LAYER => Ok(Compression::None),
            LAYER_GZIP | DOCKER_LAYER_GZIP => Ok(Compression::Gzip),
            LAYER_ZSTD | DOCKER_LAYER_ZSTD => Ok(Compression::Zstd),
            other => Err(Error::Unsupported {
                what: format!("layer {}", self.digest),
                why: format!("its media type is `{other}`, not a tar layer"),
            }
            .into()),
        }
    }
}

/// What an image runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, ToJson, FromJson)]
pub struct Platform {
    /// GOARCH: `amd64`, `arm64`, `arm`, ...
    pub architecture: String,
    /// GOOS: `linux`.
    pub os: String,
    /// Version of the system; Windows only.
    #[json(default, rename = "os.version", skip_if_empty)]
    pub os_version: Option<String>,
    /// CPU variant: `v5` to `v8` for arm.
    #[json(default, skip_if_empty)]
    pub variant: Option<String>,
}

/// An image for one platform.
#[derive(Clone, Debug, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// [`media_type::MANIFEST`] or Docker's; may be absent in OCI.
    #[json(default, skip_if_empty)]
    pub media_type: String,
    /// The image configuration.
    pub config: Descriptor,
    /// Layers, base first.
    pub layers: Vec<Descriptor>,
    /// Free key-value pairs.
    #[json(default, null_is_default, skip_if_empty)]
    pub annotations: Map<String>,
}

impl Manifest {
    /// Parses and checks a manifest.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let manifest: Self = parse("the manifest", bytes)?;
        check_schema("the manifest", manifest.schema_version)?;
        if !manifest.media_type.is_empty() && !media_type::is_manifest(&manifest.media_type) {
            return Err(Error::malformed(
                "the manifest",
                format!("its media type is `{}`", manifest.media_type),
            ));
        }
        if !matches!(
            manifest.config.media_type.as_str(),
            media_type::CONFIG | media_type::DOCKER_CONFIG
        ) {
            return Err(Error::Unsupported {
                what: "the manifest".to_owned(),
                why: format!(
                    "its configuration is `{}`: an artifact, not a container image",
                    manifest.config.media_type
                ),
            }
            .into());
        }
        check_count("layers", manifest.layers.len(), LAYERS_MAX)?;
        Ok(manifest)
    }

    /// Bytes of all layers as they are transferred.
    pub fn layer_bytes(&self) -> u64 {
        self.layers
            .iter()
            .fold(0, |sum, layer| sum.saturating_add(layer.size))
    }
}

/// A list of manifests, usually one a platform; also `index.json` of a layout.
#[derive(Clone, Debug, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// [`media_type::INDEX`] or Docker's; may be absent in OCI.
    #[json(default, skip_if_empty)]
    pub media_type: String,
    /// The manifests, and nested indexes.
    #[json(default, null_is_default)]
    pub manifests: Vec<Descriptor>,
    /// Free key-value pairs.
    #[json(default, null_is_default, skip_if_empty)]
    pub annotations: Map<String>,
}

impl Index {
    /// An index of these manifests.
    pub fn of(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: media_type::INDEX.to_owned(),
            manifests,
            annotations: Map::new(),
        }
    }

    /// Parses and checks an index.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let index: Self = parse("the index", bytes)?;
        check_schema("the index", index.schema_version)?;
        if !index.media_type.is_empty() && !media_type::is_index(&index.media_type) {
            return Err(Error::malformed(
                "the index",
                format!("its media type is `{}`", index.media_type),
            ));
        }
        check_count("index entries", index.manifests.len(), INDEX_ENTRIES_MAX)?;
        Ok(index)
    }
}

/// The image configuration: what to run, and what the layers unpack to.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct ImageConfig {
    /// RFC 3339 time of the build.
    #[json(default, skip_if_empty)]
    pub created: Option<String>,
    /// Who made it.
    #[json(default, skip_if_empty)]
    pub author: Option<String>,
    /// GOARCH.
    #[json(default)]
    pub architecture: String,
    /// GOOS.
    #[json(default)]
    pub os: String,
    /// Version of the system; Windows only.
    #[json(default, rename = "os.version", skip_if_empty)]
    pub os_version: Option<String>,
    /// CPU variant.
    #[json(default, skip_if_empty)]
    pub variant: Option<String>,
    /// Defaults for a container.
    #[json(default, null_is_default)]
    pub config: ContainerConfig,
    /// Digests of the uncompressed layers.
    pub rootfs: RootFs,
    /// How each layer came to be.
    #[json(default, null_is_default, skip_if_empty)]
    pub history: Vec<History>,
}

impl ImageConfig {
    /// Parses and checks a configuration.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let config: Self = parse("the image configuration", bytes)?;
        check_count("diff IDs", config.rootfs.diff_ids.len(), LAYERS_MAX)?;
        if config.rootfs.kind != "layers" {
            return Err(Error::malformed(
                "the image configuration",
                format!("rootfs type is `{}`", config.rootfs.kind),
            ));
        }
        Ok(config)
    }

    /// The platform it says it is for.
    pub fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            os_version: self.os_version.clone(),
            variant: self.variant.clone(),
        }
    }
}

/// Defaults for a container of the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// `user[:group]`, names or numbers.
    #[json(null_is_default, skip_if_empty)]
    pub user: String,
    /// `port/protocol` keys.
    #[json(null_is_default, skip_if_empty)]
    pub exposed_ports: Map<Empty>,
    /// `NAME=value` pairs.
    #[json(null_is_default, skip_if_empty)]
    pub env: Vec<String>,
    /// First arguments.
    #[json(skip_if_empty)]
    pub entrypoint: Option<Vec<String>>,
    /// Further arguments, replaced by those of the command line.
    #[json(skip_if_empty)]
    pub cmd: Option<Vec<String>>,
    /// Directories that hold data.
    #[json(null_is_default, skip_if_empty)]
    pub volumes: Map<Empty>,
    /// Absolute working directory.
    #[json(null_is_default, skip_if_empty)]
    pub working_dir: String,
    /// Free key-value pairs.
    #[json(null_is_default, skip_if_empty)]
    pub labels: Map<String>,
    /// Signal that asks the program to end.
    #[json(skip_if_empty)]
    pub stop_signal: Option<String>,
    /// How to see whether it is well; Docker's addition to the specification, as are the two below.
    #[json(skip_if_empty)]
    pub healthcheck: Option<Healthcheck>,
    /// What runs commands in shell form in builds on this image; `/bin/sh -c` when empty.
    #[json(null_is_default, skip_if_empty)]
    pub shell: Vec<String>,
    /// Instructions for builds on this image.
    #[json(null_is_default, skip_if_empty)]
    pub on_build: Vec<String>,
}

/// Docker's health check: times in nanoseconds, 0 for the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `NONE`; `CMD` and words; or `CMD-SHELL` and a line.
    #[json(null_is_default, skip_if_empty)]
    pub test: Vec<String>,
    /// Between two checks.
    #[json(skip_if_empty)]
    pub interval: i64,
    /// For one check.
    #[json(skip_if_empty)]
    pub timeout: i64,
    /// After the start, in which failures do not count.
    #[json(skip_if_empty)]
    pub start_period: i64,
    /// Between two checks in that time.
    #[json(skip_if_empty)]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    #[json(skip_if_empty)]
    pub retries: i64,
}

/// `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct Empty {}

/// The uncompressed layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct RootFs {
    /// Always `layers`.
    #[json(rename = "type")]
    pub kind: String,
    /// One digest a layer, base first.
    #[json(null_is_default)]
    pub diff_ids: Vec<Digest>,
}

/// One step of the build.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct History {
    /// RFC 3339 time.
    #[json(default, skip_if_empty)]
    pub created: Option<String>,
    /// The instruction.
    #[json(default, skip_if_empty)]
    pub created_by: Option<String>,
    /// Free text.
    #[json(default, skip_if_empty)]
    pub comment: Option<String>,
    /// The step changed no file.
    #[json(default, skip_if_empty)]
    pub empty_layer: bool,
}

/// Serialises a document of ours. The order of fields is the order of the structs: the same document, the same bytes.
pub fn to_json(document: &dyn ToJson) -> Vec<u8> {
    punnet_json::to_vec(document)
}

/// Parses one bounded document.
pub(crate) fn parse<T: FromJson>(what: &str, bytes: &[u8]) -> Result<T> {
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(Error::Limit {
            what: format!("the size of {what}"),
            limit: format!("{DOCUMENT_BYTES_MAX} bytes"),
        }
        .into());
    }
    punnet_json::from_slice(bytes).map_err(|error| Error::malformed(what, error))
}

fn check_schema(what: &str, version: u32) -> Result<()> {
    if version == 2 {
        return Ok(());
    }
    Err(Error::malformed(
        what,
        format!("schema version {version} is not 2"),
    ))
}

/// Whether an image may have so many layers.
pub(crate) fn check_layers(count: usize) -> Result<()> {
    check_count("layers", count, LAYERS_MAX)
}

fn check_count(what: &str, count: usize, max: usize) -> Result<()> {
    if count <= max {
        return Ok(());
    }
    Err(Error::Limit {
        what: format!("the number of {what}, {count},"),
        limit: max.to_string(),
    }
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_nulls_are_empty() {
        let text = r#"{"architecture":"arm","os":"linux","config":{"Env":null,"Cmd":null,"Labels":null,"Healthcheck":{"Test":["x"]}},
            "rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let config = ImageConfig::from_json(text.as_bytes()).unwrap();
        assert!(config.config.env.is_empty() && config.config.cmd.is_none() && config.history.is_empty());
    }

    #[test]
    fn a_manifest_of_something_else_is_refused_with_the_reason() {
        let zero = Digest::of(b"");
        for (text, part) in [
            (
                format!(r#"{{"schemaVersion":1,"config":{{"digest":"{zero}","size":0}},"layers":[]}}"#),
                "schema version 1",
            ),
            (
                format!(
                    r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.cncf.helm","digest":"{zero}","size":0}},"layers":[]}}"#
                ),
                "artifact",
            ),
            (
                format!(r#"{{"schemaVersion":2,"config":{{"digest":"{zero}","size":-1}},"layers":[]}}"#),
                "malformed",
            ),
            (
                r#"{"schemaVersion":2,"config":{"digest":"sha256:../x","size":1},"layers":[]}"#.to_owned(),
                "not a digest",
            ),
            ("<html>".to_owned(), "malformed"),
        ] {
            let error = Manifest::from_json(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let error = Manifest::from_json(&vec![b' '; DOCUMENT_BYTES_MAX as usize + 1]).unwrap_err();
        assert!(matches!(*error, Error::Limit { .. }));
    }

    #[test]
    fn too_many_layers_are_refused() {
        let layer = Descriptor::of(media_type::LAYER, b"");
        let config = Descriptor::of(media_type::CONFIG, b"");
        let manifest = Manifest {
            schema_version: 2,
            media_type: String::new(),
            config,
            layers: vec![layer; LAYERS_MAX + 1],
            annotations: Map::new(),
        };
        let error = Manifest::from_json(&to_json(&manifest)).unwrap_err();
        assert!(matches!(*error, Error::Limit { .. }));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            drop((Manifest::from_json(&bytes), Index::from_json(&bytes), ImageConfig::from_json(&bytes)));
        }
    }
}
