//! Signatures of images: a payload that names a manifest's digest, and a key's signature over the payload.
//!
//! The payload and its place are those of cosign (SIGNATURE_SPEC.md of sigstore/cosign), so that what `cosign sign --key` has signed is taken here: an image `NAME` with
//! manifest `sha256:HEX` has its signatures in the artifact `NAME:sha256-HEX.sig`, each layer of which is a payload with the signature as an annotation. Keys are
//! Ed25519 (the fleet's, `punnet sign`) or ECDSA P-256 with SHA-256 (cosign's). An image of several platforms is signed as a whole: its index documents are kept
//! with the signatures, and a signature of an index holds for every manifest that the index names.
//!
//! Not here: certificates, transparency logs and keyless signing, which need a network and a clock. [`policy`] says which images need which key.

pub mod policy;

use punnet_json::{FromJson, ToJson, Value};
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, Ed25519KeyPair, UnparsedPublicKey};

use crate::base64;
use crate::oci::{self, Descriptor, Index, Manifest};
use crate::{Digest, Error, Result};

/// Media type of a payload.
pub const PAYLOAD_MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Annotation of a payload's descriptor that has the signature, base64.
pub const ANNOTATION_SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// `critical.type` of a payload.
const PAYLOAD_TYPE: &str = "cosign container image signature";

/// Bytes of a payload: cosign's have some 250, and optional claims of a person.
const PAYLOAD_BYTES_MAX: u64 = 64 << 10;

/// Signatures looked at for one image: more come from somebody who wants them to be looked at.
const SIGNATURES_MAX: usize = 32;

/// One signature, not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What is signed.
    pub payload: Vec<u8>,
    /// Ed25519, or ECDSA in ASN.1.
    pub signature: Vec<u8>,
}

/// All that is offered with an image to show where it comes from, not yet checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// In the order they were found.
    pub signatures: Vec<Signature>,
    /// Indexes that the manifest was chosen from, outermost first.
    pub indexes: Vec<Vec<u8>>,
}

/// Who may sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// RFC 8032.
    Ed25519([u8; 32]),
    /// Uncompressed point.
    EcdsaP256([u8; 65]),
}

/// SubjectPublicKeyInfo (RFC 5280) up to the key itself: for these two there is one encoding.
const SPKI_ED25519: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

impl PublicKey {
    /// PEM (`PUBLIC KEY`) of either kind, or the 64 hex digits of an Ed25519 key, as an enrolment has the fleet's.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || {
            Error::malformed(
                "the public key",
                "it is neither a PEM of an Ed25519 or ECDSA P-256 key nor 64 hex digits",
            )
        };
        if let Some(digest) = Digest::from_hex(text.trim()) {
            return Ok(Self::Ed25519(*digest.as_bytes()));
        }
        let der = pem(text, "PUBLIC KEY").ok_or_else(bad)?;
        if let Some(key) = der.strip_prefix(&SPKI_ED25519) {
            return Ok(Self::Ed25519(key.try_into().map_err(|_| bad())?));
        }
        let key = der.strip_prefix(&SPKI_P256).ok_or_else(bad)?;
        Ok(Self::EcdsaP256(key.try_into().map_err(|_| bad())?))
    }

    /// True when this key has made the signature over the payload.
    fn has_signed(&self, signature: &Signature) -> bool {
        let verified = match self {
            Self::Ed25519(key) => {
                UnparsedPublicKey::new(&ED25519, key).verify(&signature.payload, &signature.signature)
            }
            Self::EcdsaP256(key) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
                .verify(&signature.payload, &signature.signature),
        };
        verified.is_ok()
    }
}

/// The key that signs here: Ed25519 in PKCS#8, DER or PEM, as the fleet controller and `openssl genpkey -algorithm ed25519` write it.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// From a file's bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let from_pem = std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| pem(text, "PRIVATE KEY"));
        let der = from_pem.as_deref().unwrap_or(bytes);
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
            .map(Self)
            .map_err(|why| {
                Error::malformed(
                    "the private key",
                    format!("it is no Ed25519 key in PKCS#8 ({why})"),
                )
            })
    }

    /// Signs a manifest under the name it goes by.
    pub fn sign(&self, manifest: &Digest, name: &str) -> Signature {
        let payload = punnet_json::json!({
            "critical": {
                "identity": { "docker-reference": name },
                "image": { "docker-manifest-digest": manifest },
                "type": PAYLOAD_TYPE,
            },
            "optional": null,
        });
        let payload = oci::to_json(&payload);
        let signature = self.0.sign(&payload).as_ref().to_vec();
        Signature { payload, signature }
    }
}

impl Evidence {
    /// True when one of these keys has signed the manifest, or an index that names it.
    pub fn shows(&self, manifest: &Digest, keys: &[&PublicKey]) -> bool {
        let digests = self.names_of(manifest);
        let valid = |signature: &Signature| {
            // The signature first: what nobody has signed is not even parsed.
            keys.iter().any(|key| key.has_signed(signature))
                && signed_digest(&signature.payload).is_some_and(|digest| digests.contains(&digest))
        };
        self.signatures.iter().take(SIGNATURES_MAX).any(valid)
    }

    /// The manifest's digest, and those of indexes that lead to it.
    fn names_of(&self, manifest: &Digest) -> Vec<Digest> {
        let mut digests = vec![*manifest];
        for document in self.indexes.iter().rev() {
            let Ok(index) = Index::from_json(document) else {
                continue;
            };
            if index
                .manifests
                .iter()
                .any(|entry| digests.contains(&entry.digest))
            {
                digests.push(Digest::of(document));
            }
        }
        digests
    }

    /// The digests whose signatures are worth looking for: the manifest's and those of its indexes.
    pub fn digests(&self, manifest: &Digest) -> Vec<Digest> {
        self.names_of(manifest)
    }

    /// As it is stored.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let text = |bytes: &Vec<u8>| base64::encode(bytes);
        oci::to_json(&Stored {
            signatures: self
                .signatures
                .iter()
                .map(|one| StoredSignature {
                    payload: text(&one.payload),
                    signature: text(&one.signature),
                })
                .collect(),
            indexes: self.indexes.iter().map(text).collect(),
        })
    }

    /// As it was stored.
    pub(crate) fn from_json(bytes: &[u8]) -> Result<Self> {
        let bad = || Error::malformed("the stored signatures", "they are not base64");
        let stored: Stored = oci::parse("the stored signatures", bytes)?;
        let signature = |one: &StoredSignature| {
            Some(Signature {
                payload: base64::decode(&one.payload)?,
                signature: base64::decode(&one.signature)?,
            })
        };
        let signatures = stored.signatures.iter().map(signature).collect::<Option<_>>();
        let indexes = stored
            .indexes
            .iter()
            .map(|text| base64::decode(text))
            .collect::<Option<_>>();
        Ok(Self {
            signatures: signatures.ok_or_else(bad)?,
            indexes: indexes.ok_or_else(bad)?,
        })
    }
}

#[derive(ToJson, FromJson)]
struct Stored {
    signatures: Vec<StoredSignature>,
    indexes: Vec<String>,
}

#[derive(ToJson, FromJson)]
struct StoredSignature {
    payload: String,
    signature: String,
}

/// The tag that an image's signatures have.
pub fn tag_of(manifest: &Digest) -> String {
    format!("sha256-{}.sig", manifest.hex())
}

/// True for tags that cosign uses for what belongs to an image: signatures, attestations, bills of material.
pub fn is_tag(tag: &str) -> bool {
    let Some((hex, kind)) = tag.strip_prefix("sha256-").and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    matches!(kind, "sig" | "att" | "sbom") && Digest::from_hex(hex).is_some()
}

/// The signatures in a signature artifact; `fetch` reads a payload, whose digest is checked here.
pub fn of_artifact(
    manifest: &Manifest,
    mut fetch: impl FnMut(&Descriptor) -> Result<Vec<u8>>,
) -> Result<Vec<Signature>> {
    let mut signatures = Vec::new();
    for layer in manifest.layers.iter().take(SIGNATURES_MAX) {
        let signature = layer
            .annotations
            .get(ANNOTATION_SIGNATURE)
            .and_then(|text| base64::decode(text));
        let Some(signature) = signature else { continue };
        if layer.media_type != PAYLOAD_MEDIA_TYPE || layer.size > PAYLOAD_BYTES_MAX {
            continue;
        }
        let payload = fetch(layer)?;
        layer.digest.check(&payload, "a signature's payload")?;
        signatures.push(Signature { payload, signature });
    }
    Ok(signatures)
}

/// The artifact that holds these signatures: its documents, the manifest last.
pub(crate) fn to_artifact(signatures: &[Signature]) -> Vec<(Descriptor, Vec<u8>)> {
    let mut documents = Vec::new();
    let mut layers = Vec::new();
    for one in signatures {
        let mut layer = Descriptor::of(PAYLOAD_MEDIA_TYPE, &one.payload);
        let text = base64::encode(&one.signature);
        layer.annotations.insert(ANNOTATION_SIGNATURE.into(), text);
        documents.push((layer.clone(), one.payload.clone()));
        layers.push(layer);
    }
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
    let config = oci::to_json(&punnet_json::json!({
        "architecture": "", "os": "", "config": {}, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }));
    let manifest = Manifest {
        schema_version: 2,
        media_type: oci::media_type::MANIFEST.into(),
        config: Descriptor::of(oci::media_type::CONFIG, &config),
        layers,
        annotations: Default::default(),
    };
    documents.push((manifest.config.clone(), config));
    let manifest = oci::to_json(&manifest);
    documents.push((Descriptor::of(oci::media_type::MANIFEST, &manifest), manifest));
    documents
}

/// The digest that a payload is about.
fn signed_digest(payload: &[u8]) -> Option<Digest> {
    let payload: Value = punnet_json::from_slice(payload).ok()?;
    let critical = payload.get("critical")?;
    if critical.get("type")?.as_str()? != PAYLOAD_TYPE {
        return None;
    }
    critical
        .get("image")?
        .get("docker-manifest-digest")?
        .as_str()?
        .parse()
        .ok()
}

/// What stands between the lines of a PEM (RFC 7468).
fn pem(text: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let lines: String = body.split_ascii_whitespace().collect();
    base64::decode(&lines)
}
