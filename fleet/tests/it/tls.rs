//! A foreign broker behind mutual TLS.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::stand::{MOSQUITTO, eventually, has_mosquitto};

/// An authority and what it has signed: `ca.pem`, `server.pem`, `client.pem` with their keys.
fn certificates(folder: &Path) -> bool {
    let openssl = |words: &str| {
        let output = Command::new("openssl")
            .args(words.split(' '))
            .current_dir(folder)
            .output();
        output.is_ok_and(|output| output.status.success())
    };
    std::fs::write(folder.join("san"), "subjectAltName=IP:127.0.0.1").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    let mut made = openssl(&format!(
        "req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"
    ));
    for name in ["server", "client"] {
        made &= openssl(&format!(
            "req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        let sign = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san";
        made &= openssl(&format!("x509 -req -in {name}.csr -out {name}.pem {sign}"));
    }
    made
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn the_controller_reaches_a_broker_behind_mutual_tls_and_trusts_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    if !has_mosquitto() {
        return;
    }
    if !certificates(folder.path()) || !certificates(other.path()) {
        eprintln!("SKIPPED: openssl is not installed");
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nrequire_certificate true\nuser root\n\
         cafile ca.pem\ncertfile server.pem\nkeyfile server.key\n"
    );
    std::fs::write(folder.path().join("mosquitto.conf"), config).unwrap();
    let quiet = |command: &mut Command| {
        Ended(
            command
                .current_dir(folder.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    };
    let _mosquitto = quiet(Command::new(MOSQUITTO).args(["-c", "mosquitto.conf"]));
    eventually("mosquitto listens", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let fleet = |state: &str, words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_punnet-fleet"));
        command.arg("--state").arg(folder.path().join(state)).args(words);
        command
    };
    let broker = format!("mqtts://127.0.0.1:{port}");
    let client = ["--broker-cert", "client.pem", "--broker-key", "client.key"];
    let serve = |state: &str, ca: &str| {
        quiet(fleet(state, &["serve", "--broker", &broker, "--broker-ca", ca]).args(client))
    };
    let ping = |state: &str| {
        let output = fleet(state, &["ping"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let _trusting = serve("trusting", "ca.pem");
    eventually("it is connected", || {
        ping("trusting").contains(": connected").then_some(())
    });
    let stranger = other.path().join("ca.pem");
    let _wary = serve("wary", stranger.to_str().unwrap());
    let text = eventually("it says why not", || {
        let text = ping("wary");
        text.contains("not connected: ").then_some(text)
    });
    assert!(text.contains("certificate"), "{text}");
}
