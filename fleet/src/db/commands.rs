//! Commands that must outlive the controller.

use punnet_protocol::{CommandAction, Name};
use rusqlite::{Connection, params};

use super::{devices::parse_name, from_row, to_row};
use crate::error::{Error, Result};

/// Keeps a command until it is answered.
pub fn insert(
    connection: &Connection,
    device: &Name,
    id: u64,
    session: u64,
    action: &CommandAction,
) -> Result<()> {
    let action = postcard::to_allocvec(action).map_err(|why| Error::invalid("command", why))?;
    connection.execute(
        "INSERT OR REPLACE INTO commands (device, id, session, action) VALUES (?, ?, ?, ?)",
        params![device.as_str(), to_row(id), to_row(session), action],
    )?;
    Ok(())
}

/// Forgets a command: it was answered, or given up.
pub fn remove(connection: &Connection, device: &Name, id: u64) -> Result<()> {
    connection.execute(
        "DELETE FROM commands WHERE device = ? AND id = ?",
        params![device.as_str(), to_row(id)],
    )?;
    Ok(())
}

/// All that are not answered: device, id, session, action.
pub fn all(connection: &Connection) -> Result<Vec<(Name, u64, u64, CommandAction)>> {
    let mut statement =
        connection.prepare("SELECT device, id, session, action FROM commands ORDER BY device, id")?;
    let mut rows = statement.query([])?;
    let mut commands = Vec::new();
    while let Some(row) = rows.next()? {
        let action: Vec<u8> = row.get(3)?;
        // One that this version cannot read is nothing it could send.
        if let Ok(action) = postcard::from_bytes(&action) {
            commands.push((
                parse_name(&row.get::<_, String>(0)?)?,
                from_row(row.get(1)?),
                from_row(row.get(2)?),
                action,
            ));
        }
    }
    Ok(commands)
}
