//! The other side of the [API](crate::api): how the verbs reach the running controller.

use std::fs;
use std::io::{BufRead, BufReader};
use std::time::Duration;

use punnet_protocol::Name;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::api::COUNT_HEADER;
use crate::error::{Error, Result};
use crate::log_streams::LogEvent;
use crate::state_dir::StateDir;
use crate::view::{AppRequest, Changed, DeployRequest, DeviceView, ErrorBody, ImageView, Pong};

/// Loopback either answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of the running controller.
pub struct Client {
    agent: Agent,
    address: String,
    token: String,
    state: StateDir,
}

impl Client {
    /// Finds the controller that runs on `state`.
    pub fn new(state: &StateDir) -> Result<Self> {
        let read = |path: std::path::PathBuf| match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::NotServing(state.path().to_owned()))
            }
            Err(error) => Err(Error::io("read", &path)(error)),
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .proxy(None)
            .build();
        Ok(Self {
            agent: config.into(),
            address: read(state.api_address())?,
            token: read(state.api_token())?,
            state: state.clone(),
        })
    }

    /// Is it there?
    pub fn ping(&self) -> Result<Pong> {
        json(self.get("/v1/ping")?)
    }

    /// All devices, or one; with the count to go on from. `after` such a count it waits that long for news.
    pub fn devices(
        &self,
        name: Option<&Name>,
        after: Option<(u64, Duration)>,
    ) -> Result<(Vec<DeviceView>, u64)> {
        let mut query = String::new();
        if let Some(name) = name {
            query += &format!("name={name}&");
        }
        if let Some((count, timeout)) = after {
            query += &format!("after={count}&timeout_ms={}", timeout.as_millis());
        }
        let response = self.get(&format!("/v1/devices?{query}"))?;
        let count = response
            .headers()
            .get(COUNT_HEADER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        Ok((json(response)?, count.unwrap_or_default()))
    }

    /// All images.
    pub fn images(&self) -> Result<Vec<ImageView>> {
        json(self.get("/v1/images")?)
    }

    /// Deploys an app.
    pub fn deploy(&self, request: &DeployRequest) -> Result<Vec<Changed>> {
        json(self.post("/v1/deploy", request)?)
    }

    /// Starts, stops, removes or restarts an app.
    pub fn change_app(&self, request: &AppRequest) -> Result<Vec<Changed>> {
        json(self.post("/v1/apps", request)?)
    }

    /// An app's output, event by event.
    pub fn logs(
        &self,
        device: &Name,
        app: &Name,
        tail: u32,
        follow: bool,
    ) -> Result<impl Iterator<Item = Result<LogEvent>> + use<>> {
        let response = self.get(&format!("/v1/logs/{device}/{app}?tail={tail}&follow={follow}"))?;
        let lines = BufReader::new(checked(response)?.into_body().into_reader()).lines();
        Ok(lines.map(|line| {
            let line = line.map_err(|_| Error::Api("the controller ended".into()))?;
            serde_json::from_str(&line).map_err(|why| Error::invalid("log event", why))
        }))
    }

    fn get(&self, path: &str) -> Result<Response<Body>> {
        let request = self.agent.get(format!("{}{path}", self.address));
        request
            .header("Authorization", format!("Bearer {}", self.token))
            .call()
            .map_err(|why| self.failed(why))
    }

    fn post<T: Serialize>(&self, path: &str, body: &T) -> Result<Response<Body>> {
        let request = self.agent.post(format!("{}{path}", self.address));
        let request = request.header("Authorization", format!("Bearer {}", self.token));
        request.send_json(body).map_err(|why| self.failed(why))
    }

    /// The address file of a controller that was killed points to nobody.
    fn failed(&self, error: ureq::Error) -> Error {
        match error {
            ureq::Error::ConnectionFailed | ureq::Error::Io(_) => {
                Error::NotServing(self.state.path().to_owned())
            }
            other => Error::Api(format!(
                "cannot talk to the controller at {}: {other}",
                self.address
            )),
        }
    }
}

fn json<T: DeserializeOwned>(response: Response<Body>) -> Result<T> {
    let mut response = checked(response)?;
    response
        .body_mut()
        .read_json()
        .map_err(|why| Error::invalid("answer of the controller", why))
}

/// The response, or the error that it is.
fn checked(mut response: Response<Body>) -> Result<Response<Body>> {
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let body: Result<ErrorBody, _> = response.body_mut().read_json();
    Err(Error::Api(body.map_or_else(
        |_| format!("the controller answered {status}"),
        |body| body.error,
    )))
}
