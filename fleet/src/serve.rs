//! `punnet-fleet serve`: starts the parts in order, says when it is ready, and ends in order.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use punnet_protocol::Name;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::api::{self, Api};
use crate::blocks::{self, BlockServer, Blocks};
use crate::broker;
use crate::broker_url::BrokerUrl;
use crate::commands::Commands;
use crate::core::Core;
use crate::db::{self, Writer, devices, settings};
use crate::desired::Signer;
use crate::error::{Error, Result};
use crate::gate::{self, Gate};
use crate::key::FleetKey;
use crate::log_streams::Streams;
use crate::session::{BrokerOptions, Outbox, Session};
use crate::state_dir::{StateDir, write_atomic};

/// Messages between the session and the core; beyond it the broker's next message waits in the socket.
const INCOMING_MAX: usize = 1024;

/// Requests between API and core.
const REQUESTS_MAX: usize = 64;

/// How long the session with the embedded broker may take to come up.
const READY_TIMEOUT: Duration = Duration::from_secs(15);

/// What to serve.
pub struct Options {
    /// Where devices reach the embedded broker.
    pub listen: SocketAddr,
    /// Another broker in place of the embedded one.
    pub external: Option<BrokerOptions>,
    /// Where the API listens.
    pub api: SocketAddr,
    /// What enrolment files say; found out when `None`.
    pub public_url: Option<BrokerUrl>,
    /// The fleet's name, when it is new or to be checked.
    pub fleet: Option<Name>,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Messages and connections that were ignored, by reason. What is here is the only trace of them.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: Counter),* }

        impl Counters {
            /// All of them by name.
            pub fn all(&self) -> BTreeMap<String, u64> {
                [$((stringify!($name).to_owned(), self.$name.get())),*].into()
            }
        }
    };
}

counters! {
    /// On a topic that is none of ours.
    bad_topic,
    /// Larger than any message of ours.
    too_large,
    /// No envelope or no message of ours.
    malformed,
    /// Of a device that is not enrolled.
    unknown_device,
    /// Of a session that is over.
    old_session,
    /// Received before.
    known,
    /// Connections and packets that the gate refused.
    denied_by_gate,
}

/// Counts up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Serves until SIGTERM or SIGINT.
pub async fn serve(state: StateDir, options: Options) -> Result<()> {
    let _lock = state.lock()?;
    // A file of a run that was killed must not point to whoever has its port now.
    std::fs::remove_file(state.api_address()).ok();
    let (key, is_new) = FleetKey::read_or_make(&state)?;
    if is_new {
        crate::say(&format!("made a new fleet key: {}", state.key().display()));
    }
    let connection = db::open(&state)?;
    let fleet = settings::fleet(&connection, options.fleet.as_ref())?;
    devices::all_offline(&connection)?;
    let counters = Arc::new(Counters::default());
    let broker = match options.external.clone() {
        Some(external) => external,
        None => start_embedded(&state, &fleet, options.listen, &counters).await?,
    };
    let reached_at = match &options.external {
        Some(external) => external.url.to_string(),
        None => std::fs::read_to_string(state.broker_address()).unwrap_or_default(),
    };
    keep_public_url(&connection, &options, &reached_at)?;
    write_atomic(&state.broker_address(), reached_at.as_bytes(), 0o644)?;

    let parts = Parts::start(&state, fleet.clone(), key, connection, broker, counters)?;
    let listener = listen(options.api).await?;
    let api_address = format!(
        "http://{}",
        listener.local_addr().map_err(network("listen on", options.api))?
    );
    let mut connected = parts.connected.clone();
    let api = Api::new(&state, parts, reached_at.clone())?;
    let end_of_api = api.end.clone();
    let serving = tokio::spawn(api::serve(listener, api));
    if options.external.is_none() {
        tokio::time::timeout(READY_TIMEOUT, connected.wait_for(|connected| *connected))
            .await
            .map_err(|_| Error::invalid("embedded broker", "it does not take the controller's own session"))?
            .map_err(|_| Error::Ending)?;
    }
    write_atomic(&state.api_address(), api_address.as_bytes(), 0o644)?;
    crate::say(&format!(
        "fleet '{fleet}' is served: devices at {reached_at}, API at {api_address}"
    ));

    wait_for_end().await?;
    crate::say("ending");
    std::fs::remove_file(state.api_address()).ok();
    end_of_api.send_replace(true);
    serving.await.map_err(|_| Error::Ending)?
}

/// The parts that work behind the API.
pub struct Parts {
    /// The database.
    pub writer: Writer,
    /// Signs.
    pub signer: Arc<Signer>,
    /// To the broker.
    pub outbox: Arc<Outbox>,
    /// To the core.
    pub requests: mpsc::Sender<crate::core::Request>,
    /// Counts changes.
    pub changes: watch::Sender<u64>,
    /// True while there is a session with the broker.
    pub connected: watch::Receiver<bool>,
    /// Why there is none.
    pub broker_error: watch::Receiver<Option<String>>,
    /// What was ignored.
    pub counters: Arc<Counters>,
}

impl Parts {
    fn start(
        state: &StateDir,
        fleet: Name,
        key: FleetKey,
        connection: rusqlite::Connection,
        broker: BrokerOptions,
        counters: Arc<Counters>,
    ) -> Result<Self> {
        let thread = |source| Error::Io {
            operation: "start a thread for",
            path: state.path().into(),
            source,
        };
        let signer = Arc::new(Signer {
            fleet: fleet.clone(),
            key,
        });
        let outbox = Arc::new(Outbox::default());
        let (answers, blocks_out) = mpsc::channel(blocks::ANSWERS_MAX);
        let blocks = Blocks::start(BlockServer {
            database: db::open_reader(state)?,
            blobs: state.blobs(),
            answers,
            counters: counters.clone(),
        })
        .map_err(thread)?;
        let writer = Writer::start(connection).map_err(thread)?;
        let (incoming_in, incoming) = mpsc::channel(INCOMING_MAX);
        let (requests, requests_out) = mpsc::channel(REQUESTS_MAX);
        let (connected_in, connected) = watch::channel(false);
        let (broker_error_in, broker_error) = watch::channel(None);
        let (changes, _) = watch::channel(0);
        let session = Session {
            fleet,
            broker,
            database: db::open_reader(state)?,
            outbox: outbox.clone(),
            blocks: blocks_out,
            incoming: incoming_in,
            connected: connected_in,
            counters: counters.clone(),
        };
        let core = Core {
            signer: signer.clone(),
            writer: writer.clone(),
            outbox: outbox.clone(),
            blocks,
            counters: counters.clone(),
            changes: changes.clone(),
            broker_error: broker_error_in,
            commands: Commands::default(),
            streams: Streams::default(),
        };
        let options = session.options()?;
        tokio::spawn(session.run(options));
        tokio::spawn(core.run(incoming, requests_out));
        Ok(Self {
            writer,
            signer,
            outbox,
            requests,
            changes,
            connected,
            broker_error,
            counters,
        })
    }
}

/// Starts rumqttd and the gate before it; leaves the gate's address in the state directory.
async fn start_embedded(
    state: &StateDir,
    fleet: &Name,
    listen_at: SocketAddr,
    counters: &Arc<Counters>,
) -> Result<BrokerOptions> {
    // The gate's port first: that it is taken is the common failure.
    let listener = listen(listen_at).await?;
    let address = listener.local_addr().map_err(network("listen on", listen_at))?;
    let embedded = tokio::task::spawn_blocking(broker::start)
        .await
        .map_err(|_| Error::Ending)??;
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let own_door = listen(anywhere).await?;
    let own_address = own_door.local_addr().map_err(network("listen on", anywhere))?;
    tokio::spawn(gate::relay(own_door, embedded.address));
    let url = BrokerUrl {
        tls: false,
        host: own_address.ip().to_string(),
        port: own_address.port(),
        login: Some(embedded.login.clone()),
    };
    let gate = Gate::new(fleet.clone(), db::open_reader(state)?, embedded, counters.clone());
    tokio::spawn(gate.serve(listener));
    write_atomic(
        &state.broker_address(),
        format!("mqtt://{address}").as_bytes(),
        0o644,
    )?;
    Ok(BrokerOptions {
        url,
        ca_pem: None,
        client_pem: None,
    })
}

/// Stores what enrolments shall say. A broker that listens on every address has no address to tell.
fn keep_public_url(connection: &rusqlite::Connection, options: &Options, reached_at: &str) -> Result<()> {
    if let Some(url) = &options.public_url {
        return settings::set(connection, settings::PUBLIC_URL, &url.to_string());
    }
    if options.external.is_none() && options.listen.ip().is_unspecified() {
        crate::say(&format!(
            "enrolments need --public-url (or enroll --broker): {reached_at} is no address that a device can reach"
        ));
        return settings::unset(connection, settings::PUBLIC_URL);
    }
    settings::set(connection, settings::PUBLIC_URL, reached_at)
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(network("listen on", address))
}

fn network(operation: &'static str, address: SocketAddr) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Network {
        operation,
        address: address.to_string(),
        source,
    }
}

async fn wait_for_end() -> Result<()> {
    let failed = |source| Error::Network {
        operation: "wait for",
        address: "signals".into(),
        source,
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
