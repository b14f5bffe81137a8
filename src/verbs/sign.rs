//! sign: puts the signature of a key on an image. docs/signatures.md

use std::process::ExitCode;

use punnet_images::signature::policy::Policy;
use punnet_images::signature::{PublicKey, SigningKey};
use punnet_images::{Digest, Image, Reference};

use super::images::store;
use super::{Flag, Given, Verb, Words, valued};
use crate::container::{Meta, file};
use crate::error::{CliError, Result};
use crate::roots::Roots;

/// `--vouched-by`
pub const VOUCHED_BY: Flag = valued(
    "vouched-by",
    "KEY",
    "Take this key's signature over the image's digest for checked, where signatures.json wants one: the agent gives the fleet's",
);

/// `punnet sign IMAGE`
pub const SIGN: Verb = Verb {
    name: "sign",
    summary: "Sign an image",
    synopsis: "--key FILE IMAGE",
    details: "FILE is an Ed25519 key in PKCS#8: that of the fleet controller, or what `openssl genpkey -algorithm ed25519` writes. The signature is kept with the image\n\
              and travels with it in OCI archives and layouts, as cosign's do. Which images need which key is said in signatures.json in the data root.",
    flags: &[valued("key", "FILE", "The private key").or('k')],
    words: Words::Between(1, 1),
    act: sign,
};

fn sign(roots: &Roots, given: Given) -> Result<ExitCode> {
    let path = given
        .one("key")
        .ok_or_else(|| CliError::Usage("punnet sign needs --key FILE".into()))?;
    let bytes = std::fs::read(path).map_err(file("cannot read", path.as_ref()))?;
    let key = SigningKey::parse(&bytes)?;
    let store = store(roots)?;
    let image = store.get(given.text(0)?)?;
    let name = name_of(&image, given.text(0)?);
    let name = name.map_or_else(String::new, |name| name.name());
    store.sign(&image, key.sign(&image.manifest, &name))?;
    println!("{}", image.manifest);
    Ok(ExitCode::SUCCESS)
}

/// Refuses an image that the policy of this device does not let run. `vouched` is a key whose signature over the image's digest the caller has checked.
pub fn check(roots: &Roots, image: &Image, asked: &str, vouched: Option<&str>) -> Result<()> {
    check_named(roots, &image.manifest, name_of(image, asked), vouched)
}

/// The same for a container, which may have been made before there was this policy. It counts by the name that its image had then.
pub fn check_container(roots: &Roots, meta: &Meta, vouched: Option<&str>) -> Result<()> {
    let manifest: Digest = meta.manifest.parse()?;
    let was_asked_by_digest = meta.image.parse::<Digest>().is_ok() || manifest.hex().starts_with(&meta.image);
    let name = meta.image.parse().ok().filter(|_| !was_asked_by_digest);
    check_named(roots, &manifest, name, vouched)
}

fn check_named(
    roots: &Roots,
    manifest: &Digest,
    name: Option<Reference>,
    vouched: Option<&str>,
) -> Result<()> {
    let Some(policy) = Policy::read(&roots.data()?)? else {
        return Ok(());
    };
    Ok(policy.check(
        name.as_ref(),
        manifest,
        &store(roots)?.evidence(manifest)?,
        vouched.map(PublicKey::parse).transpose()?.as_ref(),
    )?)
}

/// The name it was asked for by, when it is one of its own and not a digest.
fn name_of(image: &Image, asked: &str) -> Option<Reference> {
    let asked = asked.parse::<Reference>().ok()?;
    image.references.contains(&asked).then_some(asked)
}
