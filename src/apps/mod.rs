//! `punnet apps`: the containers of /etc/punnet/apps without any controller. `punnet-apps` reads the files and decides; here it is done.
//!
//! ```text
//! /etc/punnet/apps/NAME.yaml    one app each (punnet_apps::App); NAME is also the container's
//! <run root>/apps/              gone with a reboot
//!   lock                        held by the one `punnet apps serve`, with its process id in it
//!   NAME.order                  "stop" until somebody says otherwise, or "start" until it is read
//!   NAME.error                  why the last attempt failed
//!   NAME.job                    standard error of the command that works on it
//! ```

mod app;
mod files;
mod job;
mod orders;
mod supervisor;

pub use files::read_files;
pub use orders::{Order, Orders};
pub use supervisor::serve;

use crate::error::CliError;

/// Label of a container made from an app file: the app's name.
pub const LABEL_APP: &str = "punnet.apps";
/// Label that says what exactly it was made from: a digest of [`punnet_apps::App::create_args`].
pub const LABEL_SPEC: &str = "punnet.apps.spec";

/// What a container of this app is labelled with.
pub fn spec_of(app: &punnet_apps::App) -> String {
    let text = app.create_args().join("\0");
    punnet_images::Digest::of(text.as_bytes()).to_string()
}

/// An error of the system, with what was tried.
fn system(operation: &'static str) -> impl FnOnce(nix::errno::Errno) -> Box<CliError> {
    move |errno| CliError::file("cannot", operation.as_ref(), errno.into())
}
