//! Debian's docker-registry on loopback, for whoever pulls and pushes: the tests, and the boards whose power is cut.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::process::{Server, run, stdout_of, wait_for};
use crate::stand::free_address;

/// Generous: a loaded machine is slow, a broken one is slow for ever.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// `user:secret`, as `htpasswd -B` writes it.
const HTPASSWD: &str = "user:$2y$05$uyY5c1Y5UqEJIpU.QfYTY.aUz/pk7ROZo0IX.LHBqqVCtUoFHaLiG\n";

/// A registry that ends with this value.
pub struct DockerRegistry {
    folder: TempDir,
    /// Where it listens: host and port.
    pub address: String,
    _server: Server,
}

/// How it is spoken to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// HTTP, and everybody may do everything.
    Open,
    /// TLS with a certificate of its own authority, and `user` with `secret`.
    Locked,
}

impl DockerRegistry {
    /// An empty one.
    pub fn start(door: Door) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("punnet-registry-").tempdir()?;
        let address = free_address()?;
        let at = |name: &str| folder.path().join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp:\n  addr: {address}\n",
            at("data")
        );
        if door == Door::Locked {
            make_certificates(folder.path())?;
            fs::write(folder.path().join("htpasswd"), HTPASSWD)?;
            config += &format!(
                "  tls: {{certificate: {}, key: {}}}\n",
                at("server.pem"),
                at("server.key")
            );
            config += &format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", at("htpasswd"));
        }
        fs::write(folder.path().join("config.yml"), config)?;
        let log = File::create(folder.path().join("log"))?;
        let mut command = Command::new("docker-registry");
        command
            .args(["serve", &at("config.yml")])
            .stdout(log.try_clone()?)
            .stderr(log);
        let server = Server::start("docker-registry", &mut command)?;
        let connect = || Ok(TcpStream::connect(&address).ok());
        drop(wait_for("docker-registry", READY_TIMEOUT, connect)?);
        Ok(Self {
            folder,
            address,
            _server: server,
        })
    }

    /// The certificate authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Lines of its access log so far.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(self.folder.path().join("log")).context("the registry has no log")
    }
}

/// Copies with skopeo, certificates unchecked: it is the other side here.
pub fn skopeo_copy(args: &[&str]) -> Result<()> {
    let mut command = Command::new("skopeo");
    command.args([
        "--insecure-policy",
        "copy",
        "--quiet",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
    ]);
    run(command.args(args))
}

/// An authority, and a certificate by it for loopback and `registry.test`.
fn make_certificates(folder: &Path) -> Result<()> {
    let openssl = |args: &[&str]| stdout_of(Command::new("openssl").args(args).current_dir(folder)).map(drop);
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    let authority = [
        "req",
        "-x509",
        "-days",
        "30",
        "-subj",
        "/CN=test authority",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    ];
    openssl(&[&authority[..], &key].concat())?;
    let request = [
        "req",
        "-subj",
        "/CN=registry",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
    ];
    openssl(&[&request[..], &key].concat())?;
    fs::write(
        folder.join("names"),
        "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:registry.test\nbasicConstraints=critical,CA:FALSE\n",
    )?;
    openssl(&[
        "x509",
        "-req",
        "-days",
        "30",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "names",
        "-out",
        "server.pem",
    ])
}
