//! Signatures: what OpenSSL signs in cosign's format is taken, what was signed by others or for something else is not, and nothing runs unsigned when
//! a policy wants a signature.

use crate::store_input::{Made, file, import};
use crate::support::{chain, tool};
use punnet_images::export::{self, Format, Saved};
use punnet_images::oci::{self, Descriptor, Index, Manifest, media_type};
use punnet_images::signature::policy::Policy;
use punnet_images::signature::{
    ANNOTATION_SIGNATURE, Evidence, PAYLOAD_MEDIA_TYPE, PublicKey, Signature, SigningKey, tag_of,
};
use punnet_images::{Digest, Image, Reference, Source, Store};
use std::fs;
use std::path::Path;

/// A payload as cosign writes it (SIGNATURE_SPEC.md).
fn payload(manifest: &Digest) -> String {
    format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"example.org/app"}},"image":{{"docker-manifest-digest":"{manifest}"}},"type":"cosign container image signature"}},"optional":null}}"#
    )
}

/// A key pair in files, and its public half.
fn key_pair(folder: &Path, kind: &str) -> (String, PublicKey) {
    let private = folder.join(format!("{kind}.pem")).display().to_string();
    let algorithm: &[&str] = match kind {
        "ed25519" => &["-algorithm", "ed25519"],
        _ => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    };
    tool("openssl", &[&["genpkey", "-out", &private], algorithm].concat()).unwrap();
    let public = tool("openssl", &["pkey", "-in", &private, "-pubout"]).unwrap();
    (private, PublicKey::parse(&public).unwrap())
}

/// What OpenSSL makes of a payload.
fn signed(folder: &Path, private: &str, payload: &str) -> Signature {
    let (at, out) = (folder.join("payload"), folder.join("signature"));
    fs::write(&at, payload).unwrap();
    let (at, to) = (at.display().to_string(), out.display().to_string());
    if private.ends_with("ed25519.pem") {
        tool(
            "openssl",
            &[
                "pkeyutl", "-sign", "-inkey", private, "-rawin", "-in", &at, "-out", &to,
            ],
        )
        .unwrap();
    } else {
        tool(
            "openssl",
            &["dgst", "-sha256", "-sign", private, "-out", &to, &at],
        )
        .unwrap();
    }
    Signature {
        payload: payload.into(),
        signature: fs::read(out).unwrap(),
    }
}

fn evidence(signature: &Signature) -> Evidence {
    Evidence {
        signatures: vec![signature.clone()],
        indexes: Vec::new(),
    }
}

#[test]
fn what_openssl_signs_with_either_kind_of_key_is_taken_and_nothing_near_it() {
    let folder = tempfile::tempdir().unwrap();
    let (manifest, other) = (Digest::of(b"manifest"), Digest::of(b"other"));
    for kind in ["ed25519", "p256"] {
        let (private, key) = key_pair(folder.path(), kind);
        let good = signed(folder.path(), &private, &payload(&manifest));
        assert!(evidence(&good).shows(&manifest, &[&key]), "{kind}");
        assert!(!evidence(&good).shows(&other, &[&key]), "{kind}: another image");
        assert!(!evidence(&good).shows(&manifest, &[]), "{kind}: no key");
        let stranger = tempfile::tempdir().unwrap();
        let (_, wrong) = key_pair(stranger.path(), kind);
        assert!(
            !evidence(&good).shows(&manifest, &[&wrong]),
            "{kind}: a stranger's key"
        );
        for at in [0, good.payload.len() / 2, good.payload.len() - 1] {
            let mut bad = good.clone();
            bad.payload[at] ^= 1;
            assert!(
                !evidence(&bad).shows(&manifest, &[&key]),
                "{kind}: payload byte {at}"
            );
        }
        for at in 0..good.signature.len() {
            let mut bad = good.clone();
            bad.signature[at] ^= 1;
            assert!(
                !evidence(&bad).shows(&manifest, &[&key]),
                "{kind}: signature byte {at}"
            );
        }
        // Signed indeed, but it says something else.
        for text in [
            payload(&manifest).replace("cosign container image signature", "another type"),
            payload(&manifest).replace("docker-manifest-digest", "some-digest"),
            "not JSON".to_owned(),
        ] {
            let odd = signed(folder.path(), &private, &text);
            assert!(!evidence(&odd).shows(&manifest, &[&key]), "{kind}: {text}");
        }
    }
}

#[test]
fn a_signed_index_vouches_for_what_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let (private, key) = key_pair(folder.path(), "p256");
    let (chosen, other) = (
        Descriptor::of(media_type::MANIFEST, b"chosen"),
        Digest::of(b"other"),
    );
    let index = oci::to_json(&Index::of(vec![chosen.clone()]));
    let signature = signed(folder.path(), &private, &payload(&Digest::of(&index)));
    let mut proof = evidence(&signature);
    assert!(
        !proof.shows(&chosen.digest, &[&key]),
        "without the index nobody knows what it names"
    );
    proof.indexes = vec![index];
    assert!(proof.shows(&chosen.digest, &[&key]));
    assert!(!proof.shows(&other, &[&key]));
}

#[test]
fn keys_that_are_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rsa.pem").display().to_string();
    tool("openssl", &["genpkey", "-algorithm", "RSA", "-out", &path]).unwrap();
    let rsa = tool("openssl", &["pkey", "-in", &path, "-pubout"]).unwrap();
    for text in [
        rsa.as_str(),
        "",
        "zz",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
    ] {
        assert!(
            PublicKey::parse(text)
                .unwrap_err()
                .to_string()
                .contains("public key"),
            "{text}"
        );
    }
    assert!(SigningKey::parse(&fs::read(path).unwrap()).is_err());
    assert!(PublicKey::parse(&"ab".repeat(32)).is_ok());
}

/// An image in a layout with signatures beside it, as `cosign save` and skopeo lay them out.
fn layout_with_artifact(made: &mut Made, signature: &Signature, manifest: &Digest) -> Source {
    let source = made.source();
    let layout = source.path().to_owned();
    let blob = |media_type: &str, bytes: &[u8]| {
        let descriptor = Descriptor::of(media_type, bytes);
        fs::write(layout.join("blobs/sha256").join(descriptor.digest.hex()), bytes).unwrap();
        descriptor
    };
    let mut layer = blob(PAYLOAD_MEDIA_TYPE, &signature.payload);
    let file = layout.join("signature");
    fs::write(&file, &signature.signature).unwrap();
    let text = tool("base64", &["-w0", file.to_str().unwrap()]).unwrap();
    layer.annotations.insert(ANNOTATION_SIGNATURE.into(), text);
    let artifact = Manifest {
        schema_version: 2,
        media_type: media_type::MANIFEST.into(),
        config: blob(media_type::CONFIG, b"{}"),
        layers: vec![layer],
        annotations: Default::default(),
    };
    let mut entry = blob(media_type::MANIFEST, &oci::to_json(&artifact));
    entry
        .annotations
        .insert("org.opencontainers.image.ref.name".into(), tag_of(manifest));
    let mut index = source.index().clone();
    index.manifests.push(entry);
    fs::write(layout.join("index.json"), oci::to_json(&index)).unwrap();
    Source::open(&layout).unwrap()
}

fn made() -> Made {
    Made::new(&[file("a", "content")])
}

#[test]
fn signatures_come_in_with_an_image_and_go_out_with_it() {
    let mut made = made();
    let folder = made.folder.path().to_owned();
    let manifest = made.source().index().manifests[0].digest;
    let (private, key) = key_pair(&folder, "p256");
    let signature = signed(&folder, &private, &payload(&manifest));
    let source = layout_with_artifact(&mut made, &signature, &manifest);
    assert_eq!(source.images().len(), 1, "a signature is no image");
    let store = made.store();
    let image = import(&store, &source).unwrap();
    assert_eq!(
        store.evidence(&manifest).unwrap().signatures,
        std::slice::from_ref(&signature)
    );
    // A second, made here.
    let (own, own_key) = key_pair(&folder, "ed25519");
    let own = SigningKey::parse(&fs::read(own).unwrap()).unwrap();
    store.sign(&image, own.sign(&manifest, "app")).unwrap();
    let all = store.evidence(&manifest).unwrap();
    assert!(all.shows(&manifest, &[&key]) && all.shows(&manifest, &[&own_key]));
    // Out and in again, by way of skopeo's eyes.
    let (artifact, descriptor) = Source::of_signatures(&all.signatures);
    let names = |text: String| vec![text.parse::<Reference>().unwrap()];
    let parts = [
        Saved {
            manifest: source.index().manifests[0].clone(),
            source,
            references: names("app".into()),
        },
        Saved {
            source: artifact,
            manifest: descriptor,
            references: names(format!("app:{}", tag_of(&manifest))),
        },
    ];
    let to = folder.join("out");
    export::write_all(&parts, Format::OciDir, &to).unwrap();
    let at = format!("oci:{}:{}", to.display(), tag_of(&manifest));
    if let Some(raw) = tool("skopeo", &["inspect", "--raw", &at]) {
        assert!(raw.contains(PAYLOAD_MEDIA_TYPE), "{raw}");
    }
    let other = Store::open(folder.join("other")).unwrap();
    import(&other, &Source::open(&to).unwrap()).unwrap();
    assert_eq!(other.evidence(&manifest).unwrap(), all);
    // They go with the image.
    store.remove("app").unwrap();
    store.prune(|_| false).unwrap();
    assert_eq!(store.evidence(&manifest).unwrap(), Evidence::default());
}

fn check(policy: &Policy, image: &Image, store: &Store, name: &str) -> Result<(), String> {
    let name = name.parse::<Reference>().ok();
    let proof = store.evidence(&image.manifest).unwrap();
    policy
        .check(name.as_ref(), &image.manifest, &proof, None)
        .map_err(|error| chain(&error))
}

#[test]
fn without_the_right_signature_an_image_is_refused_by_default() {
    let mut made = made();
    let store = made.store();
    let image = import(&store, &made.source()).unwrap();
    let folder = made.folder.path();
    let (private, _) = key_pair(folder, "ed25519");
    let public = tool("openssl", &["pkey", "-in", &private, "-pubout"]).unwrap();
    let document = serde_json::json!({
        "version": 1,
        "keys": { "fleet": public, "other": "ab".repeat(32) },
        "rules": [
            { "images": "localhost/", "unsigned": true },
            { "images": "other/", "signed_by": ["other"] },
            { "images": "app:", "signed_by": ["other", "fleet"] },
        ],
    });
    let policy = Policy::parse(document.to_string().as_bytes()).unwrap();
    assert!(
        check(&policy, &image, &store, "app")
            .unwrap_err()
            .contains("no signature")
    );
    assert!(
        check(&policy, &image, &store, "unknown/x")
            .unwrap_err()
            .contains("no rule")
    );
    assert!(
        check(&policy, &image, &store, "")
            .unwrap_err()
            .contains("no rule"),
        "an image without a name"
    );
    check(&policy, &image, &store, "localhost/app").unwrap();
    let key = SigningKey::parse(&fs::read(&private).unwrap()).unwrap();
    store
        .sign(&image, key.sign(&Digest::of(b"older"), "app"))
        .unwrap();
    assert!(
        check(&policy, &image, &store, "app")
            .unwrap_err()
            .contains("none of its 1 signatures")
    );
    store.sign(&image, key.sign(&image.manifest, "app")).unwrap();
    check(&policy, &image, &store, "app").unwrap();
    assert!(
        check(&policy, &image, &store, "other/app").is_err(),
        "signed, by another"
    );
}

#[test]
fn a_policy_that_is_not_understood_whole_is_refused() {
    for (text, part) in [
        (r#"{"version":2,"rules":[]}"#, "version"),
        (r#"{"version":1}"#, "rules"),
        (r#"{"version":1,"rules":[{"images":"a"}]}"#, "either"),
        (
            r#"{"version":1,"keys":{"k":"KEY"},"rules":[{"images":"a","unsigned":true,"signed_by":["k"]}]}"#,
            "either",
        ),
        (
            r#"{"version":1,"rules":[{"images":"a","signed_by":["nobody"]}]}"#,
            "nobody",
        ),
        (
            r#"{"version":1,"rules":[{"images":"a","unsinged":true}]}"#,
            "unsinged",
        ),
        (r#"{"version":1,"keys":{"k":"12"},"rules":[]}"#, "key k"),
    ] {
        let text = text.replace("KEY", &"ab".repeat(32));
        let error = chain(&Policy::parse(text.as_bytes()).unwrap_err());
        assert!(error.contains(part), "{text}: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Policy::read(folder.path()).unwrap(), None);
    fs::write(folder.path().join("signatures.json"), "").unwrap();
    assert!(
        Policy::read(folder.path()).is_err(),
        "an empty file is no consent"
    );
}
