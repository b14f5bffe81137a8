//! Requests to one registry: login, redirects and waiting, as the pure parts say. One connection is kept for the next request.
//!
//! **Invariant:** what proves who we are is sent to the registry's own origin and to the one its challenge names, never to where a redirect
//! leads.

use super::connect::{ConnectError, Connector};
use super::credentials::Keyring;
use super::http::{Body, Head, Wire};
use super::policy::{self, Next, Pace};
use super::proxy::Proxies;
use super::settings::Endpoint;
use super::url::{Origin, Url};
use super::{auth, challenge};
use crate::{Error, Result, oci};
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Redirects of one request: Docker's bound.
const REDIRECTS_MAX: usize = 10;
/// Attempts while a registry has never answered: a wrong name is told at once, one lost packet is forgiven.
const FIRST_CONTACT_FAILURES_MAX: u32 = 1;
/// What is read of an answer that is not wanted, to keep its connection.
const DRAIN_BYTES_MAX: u64 = 32 * 1024;
/// A document takes no longer to arrive, even byte by byte.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(300);

/// Told while a transfer waits.
#[derive(Clone, Debug)]
pub enum Notice {
    /// The link or the server failed: it goes on after a pause.
    Waiting {
        /// So long.
        pause: Duration,
        /// Because of this.
        why: String,
    },
}

/// How to behave.
#[derive(Clone)]
pub struct Options {
    /// User names and passwords.
    pub keyring: Keyring,
    /// Ways out.
    pub proxies: Proxies,
    /// Failures in a row after which it is given up.
    pub retries: u32,
    /// Most bytes of layers a second.
    pub rate_bytes_per_s: Option<u64>,
    /// Where blobs are kept as they arrive, so that another process can go on with them; `None` to keep nothing.
    pub partial: Option<PathBuf>,
    /// Unix time that it certainly is; see [`Connector::new`].
    pub clock_floor_s: u64,
    /// Told while a transfer waits.
    pub notify: Arc<dyn Fn(&Notice) + Send + Sync>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            keyring: Keyring::default(),
            proxies: Proxies::default(),
            retries: 8,
            rate_bytes_per_s: None,
            partial: None,
            clock_floor_s: 0,
            notify: Arc::new(|_| {}),
        }
    }
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Reads only the head.
    Head,
    /// Begins an upload.
    Post,
    /// Sends a part of one.
    Patch,
    /// Ends one, or puts a manifest.
    Put,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Put => "PUT",
        }
    }

    fn reads(self) -> bool {
        matches!(self, Self::Get | Self::Head)
    }
}

/// Opens the data of a body; again when it has to be sent again.
pub type Content<'a> = &'a dyn Fn() -> Result<Box<dyn Read + 'a>>;

/// A request.
pub struct Request<'a> {
    /// What it does.
    pub method: Method,
    /// With what.
    pub url: Url,
    /// Lines of the head, each with its end, besides those that every request has.
    pub headers: String,
    /// What is sent, and how long it is.
    pub body: Option<(Content<'a>, u64)>,
}

impl Request<'_> {
    /// Reads what is there.
    pub fn get(url: Url) -> Self {
        Self {
            method: Method::Get,
            url,
            headers: String::new(),
            body: None,
        }
    }
}

/// An answer that is the one asked for.
pub struct Response {
    /// Status and headers.
    pub head: Head,
    /// What follows.
    pub body: Body,
    /// Who gave it, after redirects.
    pub url: Url,
}

/// Why a single attempt failed.
pub enum Fault {
    /// Trying again may help, not before `after`.
    Again {
        /// What the server asked for.
        after: Option<Duration>,
        /// What happened.
        why: String,
    },
    /// It will not.
    Fatal(Box<Error>),
}

impl From<Box<Error>> for Fault {
    fn from(error: Box<Error>) -> Self {
        Self::Fatal(error)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(error) => Self::Fatal(error.into()),
            Err(error) => Self::Again {
                after: None,
                why: said(&error),
            },
        }
    }
}

impl From<ConnectError> for Fault {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Lost(error) => error.into(),
            ConnectError::Fatal(error) => Self::Fatal(error),
        }
    }
}

/// What happened to a link, in words.
fn said(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "nothing came for too long".to_owned(),
        io::ErrorKind::UnexpectedEof => "the connection was closed too early".to_owned(),
        io::ErrorKind::InvalidData => format!("the answer cannot be read: {error}"),
        _ => error.to_string(),
    }
}

/// A client of one registry.
pub struct Client {
    endpoint: Endpoint,
    options: Options,
    connector: Connector,
    /// Scopes that tokens are asked for besides those of challenges.
    scopes: Vec<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Option<(Origin, Wire)>,
    authorization: Option<String>,
    /// Something answered.
    reached: bool,
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Client({})", self.endpoint.origin)
    }
}

impl Client {
    /// Connects to nothing yet.
    pub fn new(endpoint: Endpoint, options: Options) -> Self {
        let connector = Connector::new(
            options.proxies.clone(),
            endpoint.ca_file.clone(),
            options.clock_floor_s,
        );
        Self {
            endpoint,
            options,
            connector,
            scopes: Vec::new(),
            state: Mutex::default(),
        }
    }

    /// Asks for this scope too whenever a token is fetched.
    pub fn with_scope(mut self, scope: String) -> Self {
        self.scopes.push(scope);
        self
    }

    /// Whom it asks.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Most bytes of layers a second.
    pub fn rate_bytes_per_s(&self) -> Option<u64> {
        self.options.rate_bytes_per_s
    }

    /// Where blobs are kept as they arrive.
    pub fn partial(&self) -> Option<&Path> {
        self.options.partial.as_deref()
    }

    /// A new count of failures.
    pub fn pace(&self) -> Pace {
        let reached = self.state().reached;
        Pace::new(if reached {
            self.options.retries
        } else {
            self.options.retries.min(FIRST_CONTACT_FAILURES_MAX)
        })
    }

    /// Sends a request until it is answered; `None` when there is no such thing.
    pub fn send(&self, request: &Request<'_>) -> Result<Option<Response>> {
        let mut pace = self.pace();
        loop {
            match self.attempt(request) {
                Ok(response) => return Ok(response),
                Err(fault) => self.wait(&mut pace, fault, &request.url)?,
            }
        }
    }

    /// Waits before the next attempt, or gives up.
    pub fn wait(&self, pace: &mut Pace, fault: Fault, url: &Url) -> Result<()> {
        let (after, why) = match fault {
            Fault::Fatal(error) => return Err(error),
            Fault::Again { after, why } => (after, why),
        };
        let Some(pause) = pace.again(after, random()) else {
            let why = match after {
                Some(after) => format!("{why}, and asks to come back in {} s", after.as_secs()),
                None => why,
            };
            return Err(Error::Network {
                url: url.to_string(),
                why,
            }
            .into());
        };
        (self.options.notify)(&Notice::Waiting { pause, why });
        std::thread::sleep(pause);
        Ok(())
    }

    /// One attempt, with the login and the redirects it takes.
    pub fn attempt(&self, request: &Request<'_>) -> Result<Option<Response>, Fault> {
        let mut url = request.url.clone();
        let mut has_logged_in = false;
        for _ in 0..=REDIRECTS_MAX {
            let is_own = url.origin == self.endpoint.origin;
            let authorization = self.state().authorization.clone().filter(|_| is_own);
            let response = self.exchange(&url, request, authorization.as_deref())?;
            let next = policy::next(&url, request.method.reads(), &response.head);
            match next {
                Next::Use => return Ok(Some(response)),
                Next::Missing => {
                    self.keep(response);
                    return Ok(None);
                }
                Next::Redirect(to) => {
                    self.keep(response);
                    url = to;
                }
                // A token may have run out: then a new one is fetched, once.
                Next::Authenticate if is_own && !has_logged_in => {
                    let challenges = challenge::parse(response.head.all("www-authenticate"));
                    self.keep(response);
                    self.log_in(&challenges)?;
                    has_logged_in = true;
                }
                Next::Authenticate | Next::Forbidden if is_own => {
                    let found = self.options.keyring.find(&self.endpoint.registry)?;
                    return Err(self.denied(auth::advice(&found, &self.endpoint.registry)).into());
                }
                Next::Authenticate | Next::Forbidden => {
                    return Err(nonsense(&url, "it was redirected to, and refuses access".to_owned()).into());
                }
                Next::Later(after) => {
                    let why = format!("{} answers with status {}", url.origin, response.head.status);
                    self.keep(response);
                    return Err(Fault::Again { after, why });
                }
                Next::Nonsense(why) => {
                    let message = error_message(response);
                    return Err(nonsense(&url, format!("{why}{message}")).into());
                }
            }
        }
        Err(nonsense(
            &request.url,
            format!("it redirects more than {REDIRECTS_MAX} times"),
        )
        .into())
    }

    /// Finds out what to prove identity with, and remembers it.
    fn log_in(&self, challenges: &[challenge::Challenge]) -> Result<(), Fault> {
        let Endpoint { registry, origin, .. } = &self.endpoint;
        let found = self.options.keyring.find(registry)?;
        let authorization = match auth::plan(challenges, &found, registry, origin, &self.scopes) {
            auth::Plan::Send(value) => value,
            auth::Plan::Refuse(why) => return Err(self.denied(why).into()),
            auth::Plan::Fetch(request) => {
                let token = self.fetch_token(&request, || auth::advice(&found, registry))?;
                format!("Bearer {token}")
            }
        };
        self.state().authorization = Some(authorization);
        Ok(())
    }

    /// A token service is asked once and does not redirect: its answer is worth a password.
    fn fetch_token(&self, token: &auth::TokenRequest, advice: impl Fn() -> String) -> Result<String, Fault> {
        let mut request = Request::get(token.url.clone());
        let form = token.form.clone().unwrap_or_default();
        let content = || Ok(Box::new(form.as_bytes()) as Box<dyn Read>);
        if token.form.is_some() {
            request.method = Method::Post;
            request.headers = "Content-Type: application/x-www-form-urlencoded\r\n".to_owned();
            request.body = Some((&content, form.len() as u64));
        }
        let response = self.exchange(&token.url, &request, token.authorization.as_deref())?;
        match policy::next(&token.url, true, &response.head) {
            Next::Use => {}
            Next::Authenticate | Next::Forbidden => return Err(self.denied(advice()).into()),
            Next::Later(after) => {
                let why = format!(
                    "{} answers with status {}",
                    token.url.origin, response.head.status
                );
                return Err(Fault::Again { after, why });
            }
            _ => {
                let why = format!("it gives no token but status {}", response.head.status);
                return Err(nonsense(&token.url, why).into());
            }
        }
        let url = response.url.clone();
        let bytes = self.read_document(response, auth::TOKEN_DOCUMENT_BYTES_MAX)?;
        let unreadable = || nonsense(&url, "its answer holds no token".to_owned()).into();
        auth::read_token(&bytes).ok_or_else(unreadable)
    }

    /// One request and one answer.
    fn exchange(
        &self,
        url: &Url,
        request: &Request<'_>,
        authorization: Option<&str>,
    ) -> Result<Response, Fault> {
        if let Some(wire) = self.take_idle(&url.origin) {
            // It may have been closed meanwhile, which shows only now.
            match talk(wire, url, request, authorization) {
                Err(Fault::Again { .. }) => {}
                other => return other,
            }
        }
        let wire = self.connector.connect(&url.origin)?;
        let response = talk(wire, url, request, authorization)?;
        self.state().reached = true;
        Ok(response)
    }

    /// A whole document.
    pub fn read_document(&self, mut response: Response, bytes_max: u64) -> Result<Vec<u8>, Fault> {
        let deadline = Instant::now() + DOCUMENT_TIMEOUT;
        let mut bytes = Vec::new();
        let mut piece = [0; 8 * 1024];
        loop {
            let count = response.body.read(&mut piece)?;
            bytes.extend_from_slice(&piece[..count]);
            if bytes.len() as u64 > bytes_max {
                return Err(Fault::Fatal(
                    Error::Limit {
                        what: format!("the size of what {} sends", response.url),
                        limit: format!("{bytes_max} bytes"),
                    }
                    .into(),
                ));
            }
            if count == 0 {
                self.keep(response);
                return Ok(bytes);
            }
            if Instant::now() > deadline {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
        }
    }

    /// Takes the connection back for the next request, when what is left of the answer is little.
    pub fn keep(&self, mut response: Response) {
        let left = response.body.length();
        if left.is_none_or(|left| left <= DRAIN_BYTES_MAX) {
            let mut rest = (&mut response.body).take(DRAIN_BYTES_MAX);
            if io::copy(&mut rest, &mut io::sink()).is_ok()
                && let Some(wire) = response.body.into_wire()
            {
                self.state().idle = Some((response.url.origin, wire));
            }
        }
    }

    fn take_idle(&self, origin: &Origin) -> Option<Wire> {
        let (idle, wire) = self.state().idle.take()?;
        (idle == *origin).then_some(wire)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half-done under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn denied(&self, why: String) -> Box<Error> {
        Error::Denied {
            registry: self.endpoint.registry.clone(),
            what: self.endpoint.repository.clone(),
            why,
        }
        .into()
    }
}

fn talk(
    mut wire: Wire,
    url: &Url,
    request: &Request<'_>,
    authorization: Option<&str>,
) -> Result<Response, Fault> {
    let head = request_head(&wire, url, request, authorization);
    let sent = wire.write(head.as_bytes()).and_then(|()| match &request.body {
        None => Ok(()),
        Some((content, length)) => wire.write_body(&mut *content().map_err(Error::into_io)?, *length),
    });
    // A server may refuse before it has all: its answer says more than the broken pipe.
    let head = match (wire.read_head(), sent) {
        (Ok(head), _) => head,
        (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(error.into()),
    };
    let body = wire.into_body(&head, request.method == Method::Head)?;
    Ok(Response {
        head,
        body,
        url: url.clone(),
    })
}

fn request_head(wire: &Wire, url: &Url, request: &Request<'_>, authorization: Option<&str>) -> String {
    let prefix = match &wire.through_proxy {
        Some(_) => url.origin.to_string(),
        None => String::new(),
    };
    let mut head = format!(
        "{} {prefix}{} HTTP/1.1\r\nHost: {}\r\nUser-Agent: punnet/{}\r\nAccept-Encoding: identity\r\n{}",
        request.method.name(),
        url.target,
        url.origin.authority(),
        env!("CARGO_PKG_VERSION"),
        request.headers
    );
    let mut add = |name: &str, value: &str| head += &format!("{name}: {value}\r\n");
    if let Some(value) = authorization {
        add("Authorization", value);
    }
    if let Some(value) = wire
        .through_proxy
        .as_ref()
        .and_then(|proxy| proxy.authorization.as_deref())
    {
        add("Proxy-Authorization", value);
    }
    match &request.body {
        Some((_, length)) => add("Content-Length", &length.to_string()),
        None if !request.method.reads() => add("Content-Length", "0"),
        None => {}
    }
    head + "\r\n"
}

/// What an answer that no registry gives says for itself: the distribution specification's error, as far as it is one.
fn error_message(mut response: Response) -> String {
    #[derive(punnet_json::FromJson)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(punnet_json::FromJson)]
    struct One {
        #[json(default)]
        message: String,
    }
    const MESSAGE_CHARACTERS_MAX: usize = 200;
    let mut bytes = Vec::new();
    let read = (&mut response.body).take(DRAIN_BYTES_MAX).read_to_end(&mut bytes);
    let errors = read
        .ok()
        .and_then(|_| oci::parse::<Errors>("the error", &bytes).ok());
    let first = errors.and_then(|errors| errors.errors.into_iter().next());
    first.map_or_else(String::new, |first| {
        let shown: String = first
            .message
            .chars()
            .filter(|character| !character.is_control())
            .take(MESSAGE_CHARACTERS_MAX)
            .collect();
        format!(" ({shown})")
    })
}

/// An error about an answer that is none of a registry.
pub fn nonsense(url: &Url, why: String) -> Box<Error> {
    Error::Answer {
        url: url.to_string(),
        why,
    }
    .into()
}

/// Not secret: it spreads retries. The standard library seeds its hash maps so.
fn random() -> u8 {
    std::hash::RandomState::new().build_hasher().finish() as u8
}
