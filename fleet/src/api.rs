//! The HTTP API on loopback: what the other verbs of `punnet-fleet` talk to.
//!
//! | | |
//! |---|---|
//! | `GET /v1/ping` | version, broker, counters |
//! | `GET /v1/devices[?name=D&after=N&timeout_ms=T]` | devices with their apps; with `after` it waits for something newer |
//! | `GET /v1/images` | images |
//! | `POST /v1/deploy` | an app on devices |
//! | `POST /v1/apps` | start, stop, remove, restart an app |
//! | `GET /v1/logs/DEVICE/APP?tail=N&follow=B` | output, one [`LogEvent`](crate::log_streams::LogEvent) a line |
//!
//! Every request carries `Authorization: Bearer TOKEN`, the token from `api.token`. Errors are JSON: `{"error": "..."}`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use punnet_protocol::Name;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::core;
use crate::db::apps::{self, AppRow};
use crate::db::{devices, images};
use crate::desired::{self, Signer};
use crate::error::{Error, Result};
use crate::image_store;
use crate::serve::Parts;
use crate::state_dir::{StateDir, write_atomic};
use crate::view::{
    self, AppChange, AppRequest, Changed, DeployRequest, DeviceView, ErrorBody, ImageView, Pong,
};

/// Largest request body: a deployment's lists are bounded by the wire, 16 KiB would do.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// How long a request with `after` waits for news at most; shorter than the time-outs of proxies on the way.
pub const NEWS_TIMEOUT_MS_MAX: u64 = 10_000;

/// How long requests may take to end when the controller does.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// Header with the count that `after` goes on from.
pub const COUNT_HEADER: &str = "x-punnet-count";

/// What the handlers work with.
pub struct Api {
    parts: Parts,
    broker: String,
    token: String,
    /// Set to true to end the API.
    pub end: watch::Sender<bool>,
}

impl Api {
    /// Makes the API and its token. The token of the run before stops working.
    pub fn new(state: &StateDir, parts: Parts, broker: String) -> Result<Self> {
        let token = crate::hex(&devices::random::<32>()?);
        write_atomic(&state.api_token(), token.as_bytes(), 0o600)?;
        Ok(Self {
            parts,
            broker,
            token,
            end: watch::Sender::new(false),
        })
    }
}

/// Answers requests until the end is asked for.
pub async fn serve(listener: TcpListener, api: Api) -> Result<()> {
    let mut end = api.end.subscribe();
    let api = Arc::new(api);
    let router = axum::Router::new()
        .route("/v1/ping", get(ping))
        .route("/v1/devices", get(list_devices))
        .route("/v1/images", get(list_images))
        .route("/v1/deploy", post(deploy))
        .route("/v1/apps", post(change_app))
        .route("/v1/logs/{device}/{app}", get(logs))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(api.clone(), authorize))
        .with_state(api);
    let mut ended = end.clone();
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move {
        end.wait_for(|end| *end).await.ok();
    });
    let failed = |source| Error::Network {
        operation: "serve",
        address: "the API".into(),
        source,
    };
    // Log readers never end by themselves.
    tokio::select! {
        served = serving => served.map_err(failed),
        () = async {
            ended.wait_for(|end| *end).await.ok();
            tokio::time::sleep(END_TIMEOUT).await;
        } => Ok(()),
    }
}

type Shared = State<Arc<Api>>;

async fn authorize(State(api): Shared, headers: HeaderMap, request: Request, next: Next) -> Response {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let given = given
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    if devices::same_bytes(given.as_bytes(), api.token.as_bytes()) {
        next.run(request).await
    } else {
        Error::Unauthorized.into_response()
    }
}

async fn ping(State(api): Shared) -> Json<Pong> {
    Json(Pong {
        version: env!("CARGO_PKG_VERSION").into(),
        fleet: api.parts.signer.fleet.to_string(),
        broker: api.broker.clone(),
        connected: *api.parts.connected.borrow(),
        broker_error: api.parts.broker_error.borrow().clone(),
        ignored: api.parts.counters.all(),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DevicesQuery {
    name: Option<Name>,
    after: Option<u64>,
    timeout_ms: Option<u64>,
}

async fn list_devices(
    State(api): Shared,
    Query(query): Query<DevicesQuery>,
) -> Result<([(&'static str, String); 1], Json<Vec<DeviceView>>)> {
    let mut changes = api.parts.changes.subscribe();
    if let Some(after) = query.after {
        // Without news the caller gets what it has already.
        let timeout_ms = query
            .timeout_ms
            .unwrap_or(NEWS_TIMEOUT_MS_MAX)
            .min(NEWS_TIMEOUT_MS_MAX);
        tokio::time::timeout(
            Duration::from_millis(timeout_ms),
            changes.wait_for(|count| *count != after),
        )
        .await
        .ok();
    }
    let count = *changes.borrow_and_update();
    let views = api.parts.writer.run(move |db| {
        let names = match query.name {
            Some(name) => vec![name],
            None => devices::names(db)?,
        };
        names.into_iter().map(|name| device_view(db, name)).collect()
    });
    Ok(([(COUNT_HEADER, count.to_string())], Json(views.await?)))
}

fn device_view(db: &Connection, name: Name) -> Result<DeviceView> {
    let device = devices::get(db, &name)?;
    let rows = apps::of_device(db, &name)?;
    Ok(view::device(name, &device, &rows))
}

async fn list_images(State(api): Shared) -> Result<Json<Vec<ImageView>>> {
    let images = api.parts.writer.run(images::all).await?;
    Ok(Json(images.iter().map(view::image).collect()))
}

async fn deploy(State(api): Shared, request: Body) -> Result<Json<Vec<Changed>>> {
    let request: DeployRequest = parse(request).await?;
    let signer = api.parts.signer.clone();
    let changed = api
        .parts
        .writer
        .run(move |db| plan_deployment(db, &signer, &request))
        .await?;
    Ok(Json(publish(&api, changed)))
}

/// All devices or none: one that cannot run the image fails the whole deployment.
fn plan_deployment(db: &Connection, signer: &Signer, request: &DeployRequest) -> Result<Vec<Changed>> {
    let image = image_store::reference(&request.image)?;
    images::get(db, &image)?;
    let names = match &request.devices {
        Some(names) => names.clone(),
        None => devices::names(db)?,
    };
    if names.is_empty() {
        return Err(Error::invalid(
            "deployment",
            "it is for no device; `punnet-fleet enroll NAME` makes one",
        ));
    }
    names
        .into_iter()
        .map(|name| {
            let device = devices::get(db, &name)?;
            let chosen = desired::choose(db, &name, device.arch(), &image)?;
            let row = AppRow {
                name: request.app.clone(),
                image: image.clone(),
                spec: request.spec.clone(),
                chosen,
                running: true,
                generation: device.generation + 1,
                problem: None,
            };
            apps::write(db, &name, &row)?;
            let generation = signer.sign_next(db, &name, 0)?;
            Ok(Changed {
                device: name,
                generation,
                manifest: chosen.map(|chosen| chosen.digest.to_string()),
            })
        })
        .collect()
}

async fn change_app(State(api): Shared, request: Body) -> Result<Json<Vec<Changed>>> {
    let request: AppRequest = parse(request).await?;
    if request.change == AppChange::Restart {
        restart(&api, request).await?;
        return Ok(Json(Vec::new()));
    }
    let signer = api.parts.signer.clone();
    let changed = api
        .parts
        .writer
        .run(move |db| plan_change(db, &signer, &request))
        .await?;
    Ok(Json(publish(&api, vec![changed])))
}

fn plan_change(db: &Connection, signer: &Signer, request: &AppRequest) -> Result<Changed> {
    let device = devices::get(db, &request.device)?;
    let mut row = apps::get(db, &request.device, &request.app)?;
    if request.change == AppChange::Remove {
        apps::remove(db, &request.device, &request.app)?;
    } else {
        row.running = request.change == AppChange::Start;
        row.generation = device.generation + 1;
        apps::write(db, &request.device, &row)?;
    }
    let generation = signer.sign_next(db, &request.device, 0)?;
    let manifest = row.chosen.map(|chosen| chosen.digest.to_string());
    Ok(Changed {
        device: request.device.clone(),
        generation,
        manifest,
    })
}

async fn restart(api: &Api, request: AppRequest) -> Result<()> {
    let AppRequest { app, device, .. } = request;
    let (name, wanted) = (device.clone(), app.clone());
    api.parts
        .writer
        .run(move |db| apps::get(db, &name, &wanted))
        .await?;
    let (answer_in, answer) = oneshot::channel();
    let request = core::Request::Restart {
        device,
        app,
        answer: answer_in,
    };
    api.parts
        .requests
        .send(request)
        .await
        .map_err(|_| Error::Ending)?;
    answer.await.map_err(|_| Error::Ending)?
}

/// Stored already; now the devices hear of it.
fn publish(api: &Api, changed: Vec<Changed>) -> Vec<Changed> {
    for change in &changed {
        api.parts.outbox.desired(change.device.clone());
    }
    api.parts.changes.send_modify(|count| *count += 1);
    changed
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogsQuery {
    tail: u32,
    follow: bool,
}

async fn logs(
    State(api): Shared,
    Path((device, app)): Path<(Name, Name)>,
    Query(query): Query<LogsQuery>,
) -> Result<Response> {
    let (name, wanted) = (device.clone(), app.clone());
    api.parts
        .writer
        .run(move |db| apps::get(db, &name, &wanted))
        .await?;
    let (answer_in, answer) = oneshot::channel();
    let request = core::Request::ReadLog {
        device,
        app,
        tail_bytes: query.tail,
        follow: query.follow,
        answer: answer_in,
    };
    api.parts
        .requests
        .send(request)
        .await
        .map_err(|_| Error::Ending)?;
    let events = answer.await.map_err(|_| Error::Ending)??;
    let lines = ReceiverStream::new(events).map(|event| line(&event));
    Ok((
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response())
}

fn line<T: Serialize>(event: &T) -> Result<Bytes, serde_json::Error> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(line.into())
}

async fn parse<T: for<'de> Deserialize<'de>>(body: Body) -> Result<T> {
    let bytes = axum::body::to_bytes(body, BODY_BYTES_MAX).await;
    let bytes = bytes.map_err(|why| Error::invalid("request", why))?;
    serde_json::from_slice(&bytes).map_err(|why| Error::invalid("request", why))
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorBody { error: self.chain() })).into_response()
    }
}
