//! Real containers, made by the runtime named in RUNTIME (punnet, crun or runc; punnet when unset), so that the suite itself is checked
//! against the references. Needs root, and busybox-static at /bin/busybox.

#![allow(clippy::unwrap_used)] // A panic is a failed test.

mod bad_input;
mod bundle;
mod control;
mod delegation;
mod devices;
mod escapes;
mod intruders;
mod isolation;
mod killed;
mod labels;
mod life;
mod limits;
mod mounts;
mod network;
mod operations;
mod process;
mod references;
mod rootless;
mod schedule;
mod seccomp;
mod terminal;
