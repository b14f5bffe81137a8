#![allow(clippy::unwrap_used, reason = "tests")]

//! The controller as a process, with a real broker and devices that are MQTT clients: the embedded rumqttd and Mosquitto.

mod stand;

mod command_line;
mod commands;
mod deployments;
mod gate;
mod hostile;
mod images;
mod restarts;
mod tls;
