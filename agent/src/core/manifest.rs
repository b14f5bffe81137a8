//! An OCI image manifest (image-spec manifest.md) or Docker's (schema 2), as far as fetching needs it.

use punnet_json::FromJson;
use punnet_protocol::Digest;

/// Layers taken: Docker's own limit is 127.
const LAYERS_MAX: usize = 127;

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What a manifest names.
#[derive(Debug, PartialEq)]
pub struct Manifest {
    pub media_type: String,
    /// Config, then layers, each once.
    pub blobs: Vec<(Digest, u64)>,
}

#[derive(FromJson)]
#[json(rename_all = "camelCase")]
struct RawManifest {
    schema_version: u32,
    media_type: Option<String>,
    config: RawDescriptor,
    layers: Vec<RawDescriptor>,
}

#[derive(FromJson)]
struct RawDescriptor {
    digest: String,
    size: u64,
}

/// Reads a manifest whose blobs may take `bytes_max` together.
pub fn parse(bytes: &[u8], bytes_max: u64) -> Result<Manifest, String> {
    let raw: RawManifest =
        punnet_json::from_slice(bytes).map_err(|error| format!("the manifest: {error}"))?;
    let media_type = raw.media_type.unwrap_or_else(|| OCI.to_owned());
    if raw.schema_version != 2 || (media_type != OCI && media_type != DOCKER) {
        return Err(format!(
            "the manifest is {media_type:?} of version {}, not an image",
            raw.schema_version
        ));
    }
    if raw.layers.len() > LAYERS_MAX {
        return Err(format!(
            "the manifest has {} layers, {LAYERS_MAX} are taken",
            raw.layers.len()
        ));
    }
    let mut blobs: Vec<(Digest, u64)> = Vec::with_capacity(1 + raw.layers.len());
    let mut total = 0_u64;
    for RawDescriptor { digest, size } in std::iter::once(raw.config).chain(raw.layers) {
        let digest: Digest = digest
            .parse()
            .map_err(|error| format!("the manifest: {digest:.80}: {error}"))?;
        match blobs.iter().find(|(known, _)| *known == digest) {
            Some((_, known)) if *known != size => {
                return Err(format!(
                    "the manifest gives {digest} two sizes, {known} and {size}"
                ));
            }
            Some(_) => {}
            None => {
                total = total.saturating_add(size);
                blobs.push((digest, size));
            }
        }
    }
    if total > bytes_max {
        return Err(format!(
            "the manifest names {total} bytes, the desired state {bytes_max}"
        ));
    }
    Ok(Manifest { media_type, blobs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(layers: &[(u8, u64)]) -> String {
        let descriptor = |&(digest, size): &(u8, u64)| {
            format!(
                r#"{{"mediaType":"x","digest":"{}","size":{size},"annotations":{{}}}}"#,
                Digest([digest; 32])
            )
        };
        let layers: Vec<_> = layers.iter().map(descriptor).collect();
        let config = descriptor(&(0xcc, 10));
        format!(
            r#"{{"schemaVersion":2,"config":{config},"layers":[{}],"annotations":{{"a":"b"}}}}"#,
            layers.join(",")
        )
    }

    #[test]
    fn config_and_layers_are_named_once_each() {
        let parsed = parse(manifest(&[(1, 5), (2, 6), (1, 5)]).as_bytes(), 21).unwrap();
        let blobs = vec![
            (Digest([0xcc; 32]), 10),
            (Digest([1; 32]), 5),
            (Digest([2; 32]), 6),
        ];
        assert_eq!(
            parsed,
            Manifest {
                media_type: OCI.to_owned(),
                blobs
            }
        );
    }

    #[test]
    fn lies_are_refused_with_their_reason() {
        let long: Vec<_> = (0..128).map(|n| (n, 1)).collect();
        for (text, why) in [
            (manifest(&[(1, 12)]), "names 22 bytes, the desired state 21"),
            (
                manifest(&[(1, u64::MAX), (2, u64::MAX)]),
                "bytes, the desired state 21",
            ),
            (manifest(&[(1, 5), (1, 6)]), "two sizes, 5 and 6"),
            (manifest(&long), "128 layers"),
            (manifest(&[]).replace("sha256:", "md5:"), "a digest is sha256:"),
            (manifest(&[]).replace(":2,", ":1,"), "version 1"),
            (
                manifest(&[]).replace(
                    ":2,",
                    r#":2,"mediaType":"application/vnd.oci.image.index.v1+json","#,
                ),
                "not an image",
            ),
            (r#"{"schemaVersion":2}"#.to_owned(), "missing field"),
            ("[]".to_owned(), "the manifest: "),
            (String::new(), "the manifest: EOF"),
        ] {
            let error = parse(text.as_bytes(), 21).unwrap_err();
            assert!(error.contains(why), "{error:?} does not say {why:?}");
        }
    }
}
