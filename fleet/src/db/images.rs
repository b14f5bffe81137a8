//! Image rows: what the image store holds. The bytes are in `blobs/` ([`crate::image_store`]).

use punnet_protocol::Digest;
use rusqlite::{Connection, OptionalExtension, params};

use super::{apps, from_row, to_row};
use crate::error::{Error, Result};
use crate::platform::{Manifest, Platform};

/// An image as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Its reference.
    pub reference: String,
    /// Digest of its index or manifest.
    pub root: Digest,
    /// When it was added, Unix seconds.
    pub added_s: u64,
    /// All its blobs, bytes.
    pub bytes_total: u64,
    /// One for each platform.
    pub manifests: Vec<Manifest>,
    /// All its blobs with their sizes.
    pub blobs: Vec<(Digest, u64)>,
}

/// Puts an image in place of the one that had its reference. When apps still want the old one, it stays under
/// `REFERENCE@DIGEST`, so that their devices can go on fetching it.
pub fn replace(connection: &Connection, image: &Image) -> Result<()> {
    if let Ok(old) = get(connection, &image.reference)
        && old.root != image.root
        && apps::first_using(connection, &old.reference)?.is_some()
    {
        set_aside(connection, &old)?;
    }
    connection.execute("DELETE FROM images WHERE reference = ?", [&image.reference])?;
    connection.execute(
        "INSERT INTO images (reference, root, added_s, bytes_total) VALUES (?, ?, ?, ?)",
        params![
            image.reference,
            image.root.0,
            to_row(image.added_s),
            to_row(image.bytes_total)
        ],
    )?;
    for manifest in &image.manifests {
        connection.execute(
            "INSERT INTO manifests (reference, digest, os, architecture, variant, manifest_bytes, total_bytes)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
            params![
                image.reference,
                manifest.digest.0,
                manifest.platform.os,
                manifest.platform.architecture,
                manifest.platform.variant,
                manifest.manifest_bytes,
                to_row(manifest.total_bytes)
            ],
        )?;
    }
    for (digest, bytes) in &image.blobs {
        connection.execute(
            "INSERT OR IGNORE INTO blobs (digest, reference, bytes) VALUES (?, ?, ?)",
            params![digest.0, image.reference, to_row(*bytes)],
        )?;
    }
    Ok(())
}

fn set_aside(connection: &Connection, old: &Image) -> Result<()> {
    let aside = format!("{}@{}", old.reference, old.root);
    connection.execute("DELETE FROM images WHERE reference = ?", [&aside])?;
    connection.execute(
        "UPDATE images SET reference = ? WHERE reference = ?",
        [&aside, &old.reference],
    )?;
    connection.execute(
        "UPDATE apps SET image = ? WHERE image = ?",
        [&aside, &old.reference],
    )?;
    Ok(())
}

/// All images by reference.
pub fn all(connection: &Connection) -> Result<Vec<Image>> {
    let mut statement = connection.prepare("SELECT reference FROM images ORDER BY reference")?;
    let references = statement
        .query_map([], |row| row.get::<_, String>(0))?
        .collect::<Result<Vec<_>, _>>()?;
    references
        .iter()
        .map(|reference| get(connection, reference))
        .collect()
}

/// One image.
pub fn get(connection: &Connection, reference: &str) -> Result<Image> {
    let image = connection
        .query_row(
            "SELECT root, added_s, bytes_total FROM images WHERE reference = ?",
            [reference],
            |row| {
                Ok(Image {
                    reference: reference.to_owned(),
                    root: Digest(row.get(0)?),
                    added_s: from_row(row.get(1)?),
                    bytes_total: from_row(row.get(2)?),
                    manifests: Vec::new(),
                    blobs: Vec::new(),
                })
            },
        )
        .optional()?;
    let mut image = image.ok_or_else(|| Error::NoImage(reference.to_owned()))?;
    image.manifests = manifests(connection, reference)?;
    image.blobs = connection
        .prepare("SELECT digest, bytes FROM blobs WHERE reference = ? ORDER BY digest")?
        .query_map([reference], |row| {
            Ok((Digest(row.get(0)?), from_row(row.get(1)?)))
        })?
        .collect::<Result<_, _>>()?;
    Ok(image)
}

fn manifests(connection: &Connection, reference: &str) -> Result<Vec<Manifest>> {
    let mut statement = connection.prepare_cached(
        "SELECT digest, os, architecture, variant, manifest_bytes, total_bytes FROM manifests WHERE reference = ? ORDER BY rowid",
    )?;
    let rows = statement.query_map([reference], |row| {
        Ok(Manifest {
            digest: Digest(row.get(0)?),
            platform: Platform {
                os: row.get(1)?,
                architecture: row.get(2)?,
                variant: row.get(3)?,
            },
            manifest_bytes: row.get(4)?,
            total_bytes: from_row(row.get(5)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Removes an image; refused while an app of a device is made from it.
pub fn remove(connection: &Connection, reference: &str) -> Result<()> {
    get(connection, reference)?;
    if let Some((device, app)) = apps::first_using(connection, reference)? {
        return Err(Error::Conflict(format!(
            "image '{reference}' is wanted by app '{app}' on device '{device}'; \
             `punnet-fleet rm --app {app} --device {device}` first"
        )));
    }
    connection.execute("DELETE FROM images WHERE reference = ?", [reference])?;
    Ok(())
}

/// Size of a blob that some image has.
pub fn blob_bytes(connection: &Connection, digest: &Digest) -> Result<Option<u64>> {
    let mut statement = connection.prepare_cached("SELECT bytes FROM blobs WHERE digest = ? LIMIT 1")?;
    Ok(statement
        .query_row([digest.0], |row| row.get(0))
        .optional()?
        .map(from_row))
}
