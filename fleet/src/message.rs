//! One message of a device, one transaction: what it changes in the database.

use punnet_protocol::{Name, Presence, Reply, Report};
use rusqlite::Connection;

use crate::db::devices;
use crate::desired::{self, Signer};
use crate::error::Result;
use crate::state::{Arrival, Device, Effects, Ignored};

/// A decoded message.
pub enum Message {
    /// Birth, will or goodbye.
    Presence(Presence),
    /// What it runs, and what is wrong with it.
    Reported(Box<Report>),
    /// An answer.
    Reply(Box<Reply>),
}

/// What a message came to.
pub enum Applied {
    /// The device before and after, and what shall be done.
    Changed(Box<(Device, Device, Effects)>),
    /// No such device is enrolled.
    Unknown,
    /// Nothing is new.
    Ignored(Ignored),
}

/// One message, one transaction: the device's row, and a new desired state when it follows from the message.
pub fn apply(
    db: &Connection,
    signer: &Signer,
    name: &Name,
    message: Message,
    arrival: Arrival,
) -> Result<Applied> {
    let Some(before) = devices::read(db, name)? else {
        return Ok(Applied::Unknown);
    };
    let mut after = before.clone();
    let taken = match message {
        Message::Presence(presence) => after.presence(presence, arrival),
        Message::Reported(report) => after.reported(*report, arrival),
        Message::Reply(reply) => after.reply(*reply, arrival),
    };
    let effects = match taken {
        Ok(effects) => effects,
        Err(ignored) => return Ok(Applied::Ignored(ignored)),
    };
    devices::write(db, name, &after)?;
    let chosen_again = match after.arch() {
        Some(arch) if effects.arch_changed => desired::choose_again(db, name, arch)?,
        _ => false,
    };
    if chosen_again || effects.sign_above.is_some() {
        after.generation = signer.sign_next(db, name, effects.sign_above.unwrap_or(0))?;
    }
    Ok(Applied::Changed(Box::new((before, after, effects))))
}
