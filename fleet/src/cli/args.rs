//! What the command line understands.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand};
use punnet_protocol::Name;

use super::units;
use crate::broker_url::BrokerUrl;
use crate::spec::{MountSpec, NetworkName, RestartName};

/// The Punnet fleet controller: decides what each device runs, signs it, and hears how it went.
///
/// Start it with `serve`, give each device its enrolment file (`enroll`), add images (`images add`) and deploy them
/// (`deploy`). All state is in one directory.
#[derive(Parser)]
#[command(name = "punnet-fleet", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    /// State directory [default: /var/lib/punnet-fleet for root, otherwise ~/.local/state/punnet-fleet]
    #[arg(long, global = true, value_name = "DIR", env = "PUNNET_FLEET_STATE")]
    pub state: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

const AFTER_HELP: &str = "\
Exit status: 0 when it worked, 1 when it did not (the reason is on standard error), 2 for a wrong command line.

A first deployment:
  punnet-fleet serve --listen 0.0.0.0:1883 --public-url mqtt://192.0.2.7:1883 &
  punnet-fleet enroll kitchen -o kitchen.json      # copy it to the device
  punnet-fleet images add hello.oci.tar --name hello
  punnet-fleet deploy --app hello --image hello --device kitchen --wait
  punnet-fleet logs -f kitchen hello";

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Run the controller until SIGTERM or SIGINT
    #[command(
        after_help = "It is ready when it prints its addresses; they are also in broker.address and api.address in the \
                            state directory. `punnet-fleet ping` tells whether it runs.\n\nAn external broker must let the \
                            controller publish and subscribe below punnet/FLEET, and each device below punnet/FLEET/DEVICE only. \
                            For Mosquitto (acl_file; the user name of a device is its name):\n  pattern readwrite punnet/FLEET/%u/#\n  \
                            user CONTROLLER\n  topic readwrite punnet/FLEET/#\nand `set_tcp_nodelay true` in mosquitto.conf, or small packets wait 40 ms for each other."
    )]
    Serve(ServeArgs),
    /// Ask whether the controller runs and is connected to its broker
    Ping {
        /// Print JSON, with the counts of ignored messages
        #[arg(long)]
        json: bool,
    },
    /// Make the fleet's Ed25519 key and print its public half (the first `serve` or `enroll` does it too)
    Keygen {
        /// Replace an existing key: every device must then be enrolled again
        #[arg(long)]
        force: bool,
    },
    /// Write a device's enrolment file; works beside a running controller and without one
    #[command(
        after_help = "Enrolling a device again gives it a new password; the old file stops working. The user name is the \
                            device's name: for an external broker, make it known there (mosquitto_passwd), or put USER:PASSWORD \
                            into --broker."
    )]
    Enroll(EnrollArgs),
    /// List the devices: presence, platform, generations
    Devices {
        /// Print JSON, with each device's apps
        #[arg(long)]
        json: bool,
    },
    /// Add, list and remove images; works beside a running controller and without one
    Images {
        #[command(subcommand)]
        verb: Option<ImagesVerb>,
    },
    /// Deploy an app: an image and how to run it, on some devices
    #[command(group = ArgGroup::new("targets").required(true))]
    Deploy(Box<DeployArgs>),
    /// Start an app that was stopped
    Start(AppArgs),
    /// Stop an app; it stays listed and can be started again
    Stop(AppArgs),
    /// Stop and start an app's container once; the device must be online
    Restart(AppArgs),
    /// Remove an app from devices
    Rm(AppArgs),
    /// Show apps and their states
    Status {
        /// Only of this device
        device: Option<Name>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print an app's output as it comes back over MQTT
    Logs(LogsArgs),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
pub(super) struct ServeArgs {
    /// Where devices reach the embedded broker; port 0 takes a free one
    #[arg(
        long,
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:1883",
        conflicts_with = "broker"
    )]
    pub listen: SocketAddr,
    /// Use this broker instead of the embedded one
    #[arg(
        long,
        value_name = "mqtt[s]://[USER:PASSWORD@]HOST[:PORT]",
        env = "PUNNET_FLEET_BROKER",
        hide_env_values = true
    )]
    pub broker: Option<BrokerUrl>,
    /// PEM file of the authority to trust for mqtts://; the system's when not given
    #[arg(long, value_name = "FILE", requires = "broker")]
    pub broker_ca: Option<PathBuf>,
    /// PEM file of the controller's own certificate
    #[arg(long, value_name = "FILE", requires_all = ["broker_key", "broker_ca"])]
    pub broker_cert: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE", requires = "broker_cert")]
    pub broker_key: Option<PathBuf>,
    /// Where the API listens; keep it on loopback, it has no TLS
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    pub api: SocketAddr,
    /// What enrolment files say about the broker
    #[arg(long, value_name = "mqtt[s]://HOST[:PORT]")]
    pub public_url: Option<BrokerUrl>,
    /// The fleet's name, fixed from the first time on [default: home]
    #[arg(long, value_name = "NAME")]
    pub fleet: Option<Name>,
}

#[derive(Args)]
pub(super) struct EnrollArgs {
    /// The device: a-z, 0-9 and '-'
    pub name: Name,
    /// Write the file here, readable by its owner only; otherwise it goes to standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The broker as the device reaches it; otherwise the controller's
    #[arg(long, value_name = "mqtt[s]://[USER:PASSWORD@]HOST[:PORT]")]
    pub broker: Option<BrokerUrl>,
    /// PEM file of the authority that the device shall trust for mqtts://
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// PEM file of the device's own certificate
    #[arg(long, value_name = "FILE", requires = "client_key")]
    pub client_cert: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub client_key: Option<PathBuf>,
    /// The fleet's name, fixed from the first time on [default: home]
    #[arg(long, value_name = "NAME")]
    pub fleet: Option<Name>,
}

#[derive(Subcommand)]
pub(super) enum ImagesVerb {
    /// Add an image from an OCI layout directory, an OCI archive or a docker-archive, with all its platforms
    #[command(
        after_help = "Adding another image under a name in use leaves devices on the old one, which stays as NAME@DIGEST \
                            until it is removed; deploy again to move them."
    )]
    Add {
        /// The directory or archive
        path: PathBuf,
        /// Its name here, and which one when there are several
        #[arg(long, value_name = "REF")]
        name: Option<String>,
    },
    /// List images
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove images that no app is made from
    Rm {
        /// Their names
        #[arg(required = true, value_name = "REF")]
        references: Vec<String>,
    },
}

#[derive(Args)]
pub(super) struct AppArgs {
    /// Which app
    #[arg(long, value_name = "NAME")]
    pub app: Name,
    /// On which device; may be repeated
    #[arg(long, value_name = "NAME", required = true)]
    pub device: Vec<Name>,
}

#[derive(Args)]
pub(super) struct LogsArgs {
    /// Go on with what comes, until the app ends for good
    #[arg(long, short)]
    pub follow: bool,
    /// How much of what is there already, such as 4k
    #[arg(long, value_name = "BYTES", default_value = "64k", value_parser = units::bytes_u32)]
    pub tail: u32,
    /// Of which device
    pub device: Name,
    /// Of which app
    pub app: Name,
}

#[derive(Args)]
pub(super) struct DeployArgs {
    /// Name of the app, unique on the device
    #[arg(long, value_name = "NAME")]
    pub app: Name,
    /// Image in the store (`images ls`)
    #[arg(long, value_name = "REF")]
    pub image: String,
    /// On which device; may be repeated
    #[arg(long, value_name = "NAME", group = "targets")]
    pub device: Vec<Name>,
    /// On every enrolled device
    #[arg(long, group = "targets", conflicts_with = "device")]
    pub all: bool,
    /// Environment, over the image's own; may be repeated
    #[arg(long, short, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// Replaces the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// What the container sees of the network
    #[arg(long, value_name = "MODE", default_value = "none")]
    pub network: NetworkName,
    /// What happens when its process ends
    #[arg(long, value_name = "POLICY", default_value = "always")]
    pub restart: RestartName,
    /// Most memory it may use, such as 64m
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    pub memory: Option<u64>,
    /// Most processes it may have
    #[arg(long, value_name = "N")]
    pub pids: Option<u32>,
    /// Most CPU it may use, such as 0.5
    #[arg(long, value_name = "N", value_parser = units::cpu_millis)]
    pub cpus: Option<u32>,
    /// Directory of the device; may be repeated
    #[arg(long, value_name = "SRC:DST[:ro]")]
    pub mount: Vec<MountSpec>,
    /// Class of the board's devices (gpio, i2c, spi, ...); may be repeated
    #[arg(long, value_name = "CLASS")]
    pub device_class: Vec<String>,
    /// No writable layer
    #[arg(long)]
    pub read_only: bool,
    /// Between the stop signal and SIGKILL
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    pub stop_timeout: Duration,
    /// How long a new version must run to count as good; otherwise the one before comes back
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::duration)]
    pub soak: Duration,
    /// Wait until every device reports it running; exit 1 when one fails or the time is up
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "60s",
        value_parser = units::duration
    )]
    pub wait: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Replace the image's command
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wait_has_a_default_and_takes_a_time() {
        let wait = |words: &[&str]| {
            let base = ["punnet-fleet", "deploy", "--app", "a", "--image", "i", "--all"];
            match Cli::try_parse_from(base.iter().chain(words)).unwrap().verb {
                Verb::Deploy(args) => (args.wait, args.args),
                _ => panic!("not deploy"),
            }
        };
        assert_eq!(wait(&[]), (None, vec![]));
        assert_eq!(wait(&["--wait"]).0, Some(Duration::from_secs(60)));
        assert_eq!(
            wait(&["--wait=500ms", "--", "-x"]),
            (Some(Duration::from_millis(500)), vec!["-x".into()])
        );
    }

    #[test]
    fn a_deployment_without_a_target_is_refused() {
        let words = ["punnet-fleet", "deploy", "--app", "a", "--image", "i"];
        assert!(Cli::try_parse_from(words).is_err());
    }
}
