//! The programs as their users meet them: real containers, a real broker, a real controller.
//!
//! Tests that make containers need a kernel that lets them; as root and as an ordinary user that is any recent Linux.

#![allow(clippy::unwrap_used, reason = "this is a test")]

mod apps;
mod bad_messages;
mod build;
mod counterparts;
mod defaults;
mod doctor;
mod emulation;
mod fleet;
mod install;
mod registry;
mod registry_stand;
mod store_verbs;
mod support;
mod systemd;
mod tools;
mod verbs;
