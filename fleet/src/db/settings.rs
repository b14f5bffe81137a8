//! Single values: the fleet's name, the broker's address for enrolments.

use punnet_protocol::Name;
use rusqlite::{Connection, OptionalExtension, params};

use crate::error::{Error, Result};

/// The broker URL written into enrolment files.
pub const PUBLIC_URL: &str = "public_url";

const FLEET: &str = "fleet";

/// Name of a fleet that was not given one.
pub const FLEET_DEFAULT: &str = "home";

/// Reads one setting.
pub fn get(connection: &Connection, key: &str) -> Result<Option<String>> {
    Ok(connection
        .query_row("SELECT value FROM settings WHERE key = ?", [key], |row| {
            row.get(0)
        })
        .optional()?)
}

/// Writes one setting.
pub fn set(connection: &Connection, key: &str, value: &str) -> Result<()> {
    connection.execute(
        "INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)",
        params![key, value],
    )?;
    Ok(())
}

/// Forgets one setting.
pub fn unset(connection: &Connection, key: &str) -> Result<()> {
    connection.execute("DELETE FROM settings WHERE key = ?", [key])?;
    Ok(())
}

/// The fleet's name: set once, by `wanted` or to [`FLEET_DEFAULT`]. Every signature carries it, so it cannot change later.
pub fn fleet(connection: &Connection, wanted: Option<&Name>) -> Result<Name> {
    if let Some(stored) = get(connection, FLEET)? {
        let stored: Name = stored
            .parse()
            .map_err(|why| Error::invalid("fleet name in the database", why))?;
        return match wanted {
            Some(wanted) if *wanted != stored => Err(Error::Conflict(format!(
                "this state directory belongs to fleet '{stored}', not '{wanted}'; give fleet '{wanted}' its own --state"
            ))),
            _ => Ok(stored),
        };
    }
    let name = wanted
        .cloned()
        .unwrap_or_else(|| FLEET_DEFAULT.parse().expect("the default is a name"));
    set(connection, FLEET, name.as_str())?;
    Ok(name)
}
