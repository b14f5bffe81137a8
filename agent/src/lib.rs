//! The MQTT agent: desired state in, running containers out, reported state back.
//!
//! [`core`] decides and does no I/O; [`session`] speaks MQTT, [`executor`] does the work on the device, and [`run`] passes events and
//! actions between the three, on one thread.
//!
//! **Invariant:** the agent never forks a container itself; it executes its own binary.

#![forbid(unsafe_code)]

mod agent;
pub mod core;
mod enrolment;
mod error;
mod executor;
mod notify;
pub mod session;
mod tls;

pub use agent::{AgentOptions, run};
pub use core::Level;
pub use enrolment::{Broker, Enrolment};
pub use error::{AgentError, Result};
pub use notify::Notifier;
