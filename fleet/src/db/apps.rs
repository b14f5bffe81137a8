//! App rows: what the operator wants on each device, also what is stopped or cannot run yet.

use punnet_protocol::{Digest, Name};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{devices::parse_name, from_row, to_row};
use crate::error::{Error, Result};
use crate::platform::Manifest;
use crate::spec::AppSpec;

/// The manifest chosen for an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its digest.
    pub digest: Digest,
    /// Its own size.
    pub manifest_bytes: u32,
    /// With config and layers.
    pub total_bytes: u64,
}

impl From<&Manifest> for Chosen {
    fn from(manifest: &Manifest) -> Self {
        Self {
            digest: manifest.digest,
            manifest_bytes: manifest.manifest_bytes,
            total_bytes: manifest.total_bytes,
        }
    }
}

/// One app of one device.
#[derive(Clone, Debug, PartialEq)]
pub struct AppRow {
    /// Its name.
    pub name: Name,
    /// Reference of its image.
    pub image: String,
    /// How to run it.
    pub spec: AppSpec,
    /// For the device's platform; `None` until that is known.
    pub chosen: Option<Chosen>,
    /// False when the operator stopped it.
    pub running: bool,
    /// Of the desired state that last changed it.
    pub generation: u64,
    /// Why it cannot be in the desired state.
    pub problem: Option<String>,
}

const COLUMNS: &str =
    "name, image, spec, manifest, manifest_bytes, total_bytes, running, generation, problem";

/// A device's apps by name.
pub fn of_device(connection: &Connection, device: &Name) -> Result<Vec<AppRow>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM apps WHERE device = ? ORDER BY name"
    ))?;
    let mut rows = statement.query([device.as_str()])?;
    let mut apps = Vec::new();
    while let Some(row) = rows.next()? {
        apps.push(app_of(row)?);
    }
    Ok(apps)
}

/// One app, or who is missing.
pub fn get(connection: &Connection, device: &Name, app: &Name) -> Result<AppRow> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM apps WHERE device = ? AND name = ?"
    ))?;
    let mut rows = statement.query([device.as_str(), app.as_str()])?;
    match rows.next()? {
        Some(row) => app_of(row),
        None if super::devices::exists(connection, device)? => Err(Error::NoApp {
            device: device.to_string(),
            app: app.to_string(),
        }),
        None => Err(Error::NoDevice(device.to_string())),
    }
}

/// Writes one app, new or changed.
pub fn write(connection: &Connection, device: &Name, app: &AppRow) -> Result<()> {
    let spec = serde_json::to_string(&app.spec).map_err(|why| Error::invalid("app", why))?;
    connection.execute(
        "INSERT OR REPLACE INTO apps
         (device, name, image, spec, manifest, manifest_bytes, total_bytes, running, generation, problem)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            device.as_str(),
            app.name.as_str(),
            app.image,
            spec,
            app.chosen.map(|chosen| chosen.digest.0),
            app.chosen.map(|chosen| chosen.manifest_bytes),
            app.chosen.map(|chosen| to_row(chosen.total_bytes)),
            app.running,
            to_row(app.generation),
            app.problem
        ],
    )?;
    Ok(())
}

/// Removes one app.
pub fn remove(connection: &Connection, device: &Name, app: &Name) -> Result<()> {
    get(connection, device, app)?;
    connection.execute(
        "DELETE FROM apps WHERE device = ? AND name = ?",
        params![device.as_str(), app.as_str()],
    )?;
    Ok(())
}

/// Some app made from the image, as device and app.
pub fn first_using(connection: &Connection, reference: &str) -> Result<Option<(String, String)>> {
    Ok(connection
        .query_row(
            "SELECT device, name FROM apps WHERE image = ? LIMIT 1",
            [reference],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?)
}

/// True when some device shall run this very manifest.
pub fn wants_manifest(connection: &Connection, digest: &Digest) -> Result<bool> {
    Ok(connection
        .prepare_cached("SELECT 1 FROM apps WHERE manifest = ?")?
        .exists([digest.0])?)
}

fn app_of(row: &Row<'_>) -> Result<AppRow> {
    let spec: String = row.get(2)?;
    let chosen = match row.get::<_, Option<[u8; 32]>>(3)? {
        Some(digest) => Some(Chosen {
            digest: Digest(digest),
            manifest_bytes: row.get(4)?,
            total_bytes: from_row(row.get(5)?),
        }),
        None => None,
    };
    Ok(AppRow {
        name: parse_name(&row.get::<_, String>(0)?)?,
        image: row.get(1)?,
        spec: serde_json::from_str(&spec).map_err(|why| Error::invalid("app in the database", why))?,
        chosen,
        running: row.get(6)?,
        generation: from_row(row.get(7)?),
        problem: row.get(8)?,
    })
}
