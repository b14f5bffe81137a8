//! Topic names: `punnet/<fleet>/<device>/<purpose>`, one topic per device per purpose.
//!
//! A device publishes and subscribes only below its own name, never by wildcard; the controller subscribes to
//! `punnet/<fleet>/+/<purpose>`. The device's MQTT client id is `punnet-<fleet>-<device>`, so that a broker's ACL can be written
//! by client id.

use core::fmt::Write;

use heapless::String;
use serde::{Deserialize, Serialize};

use crate::{NAME_BYTES_MAX, Name};

/// Bytes of the longest topic.
pub const TOPIC_BYTES_MAX: usize = "punnet///presence".len() + 2 * NAME_BYTES_MAX;

/// A topic name or filter.
pub type Topic = String<TOPIC_BYTES_MAX>;

/// Bytes of the longest client id.
pub const CLIENT_ID_BYTES_MAX: usize = "punnet--".len() + 2 * NAME_BYTES_MAX;

/// What a topic is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// [`crate::Desired`], fleet to device, retained.
    Desired,
    /// [`crate::Command`], fleet to device, never retained.
    Command,
    /// [`crate::BlockAnswer`], fleet to device.
    Block,
    /// [`crate::Presence`], device to fleet, retained, the will.
    Presence,
    /// [`crate::Report`], device to fleet, retained.
    Reported,
    /// [`crate::Reply`], device to fleet.
    Reply,
    /// [`crate::BlockWant`], device to fleet.
    Want,
    /// [`crate::LogChunk`], device to fleet.
    Log,
}

impl Purpose {
    /// What a device subscribes to.
    pub const TO_DEVICE: [Self; 3] = [Self::Desired, Self::Command, Self::Block];
    /// What the controller subscribes to.
    pub const TO_FLEET: [Self; 5] = [Self::Presence, Self::Reported, Self::Reply, Self::Want, Self::Log];

    /// The last level of the topic.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Desired => "desired",
            Self::Command => "command",
            Self::Block => "block",
            Self::Presence => "presence",
            Self::Reported => "reported",
            Self::Reply => "reply",
            Self::Want => "want",
            Self::Log => "log",
        }
    }

    fn parse(level: &str) -> Option<Self> {
        Self::TO_DEVICE
            .into_iter()
            .chain(Self::TO_FLEET)
            .find(|purpose| purpose.as_str() == level)
    }
}

/// The topic of `purpose` for one device.
pub fn topic(fleet: &Name, device: &Name, purpose: Purpose) -> Topic {
    build(fleet, device.as_str(), purpose)
}

/// The controller's filter for `purpose` over all devices of a fleet.
pub fn filter(fleet: &Name, purpose: Purpose) -> Topic {
    build(fleet, "+", purpose)
}

/// The MQTT client id of a device.
pub fn client_id(fleet: &Name, device: &Name) -> String<CLIENT_ID_BYTES_MAX> {
    let mut id = String::new();
    write!(id, "punnet-{fleet}-{device}").expect("the bound counts two names");
    id
}

/// Takes a topic of `fleet` apart; `None` for any other topic.
pub fn parse(fleet: &Name, topic: &str) -> Option<(Name, Purpose)> {
    let rest = topic
        .strip_prefix("punnet/")?
        .strip_prefix(fleet.as_str())?
        .strip_prefix('/')?;
    let (device, purpose) = rest.split_once('/')?;
    Some((device.parse().ok()?, Purpose::parse(purpose)?))
}

fn build(fleet: &Name, device: &str, purpose: Purpose) -> Topic {
    let mut topic = Topic::new();
    write!(topic, "punnet/{fleet}/{device}/{}", purpose.as_str()).expect("the bound counts two names");
    topic
}
