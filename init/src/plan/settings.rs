//! `punnet.txt` on the boot partition: what a person says about this one board, editable on any computer.
//!
//! `KEY=VALUE` lines; `#` begins a comment line. What is wrong is named with line and column and left out; the rest counts.

use std::net::Ipv4Addr;

/// More is not read: it is a page of text.
pub const FILE_BYTES_MAX: usize = 16 * 1024;
/// As resolv.conf(5) takes.
const SERVERS_MAX: usize = 3;
/// hostname(7)
const HOSTNAME_BYTES_MAX: usize = 63;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `hostname=kitchen`
    pub hostname: Option<String>,
    /// `network=dhcp|off`, or `address=`
    pub network: Network,
    /// `dns=192.0.2.1,192.0.2.2`: instead of DHCP's
    pub dns: Vec<Ipv4Addr>,
    /// `ntp=time.example.org,192.0.2.1:4123`: instead of the board's and DHCP's
    pub ntp: Vec<String>,
    /// `console=on`: the emergency console even when nothing is wrong
    pub console: bool,
}

/// How the board gets its IPv4 address; IPv6 is the kernel's, by router advertisement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// By DHCP, on every Ethernet interface.
    #[default]
    Dhcp,
    /// This one, on the first Ethernet interface.
    Static {
        /// `address=192.0.2.7/24`
        address: Cidr,
        /// `gateway=192.0.2.1`
        gateway: Option<Ipv4Addr>,
    },
    /// Interfaces stay down.
    Off,
}

/// An address and the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub address: Ipv4Addr,
    /// 0 to 32.
    pub prefix: u8,
}

/// Reads the file. The second half is what is wrong with it, for people.
pub fn parse(text: &str) -> (Settings, Vec<String>) {
    let mut settings = Settings::default();
    let mut wrong = Vec::new();
    let (mut address, mut gateway) = (None, None);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_end_matches('\r').trim_start_matches('\u{feff}');
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let column = line.find('=').map_or(1, |at| at + 2);
        let done = match line
            .split_once('=')
            .map(|(key, value)| (key.trim(), value.trim()))
        {
            None => Err("is not KEY=VALUE".into()),
            Some(("hostname", value)) => hostname(value).map(|name| settings.hostname = Some(name)),
            Some(("network", "dhcp")) => {
                settings.network = Network::Dhcp;
                Ok(())
            }
            Some(("network", "off")) => {
                settings.network = Network::Off;
                Ok(())
            }
            Some(("network", other)) => Err(format!(
                "network is dhcp or off (address= for a fixed one), not {other:?}"
            )),
            Some(("address", value)) => cidr(value).map(|value| address = Some(value)),
            Some(("gateway", value)) => ipv4(value).map(|value| gateway = Some(value)),
            Some(("dns", value)) => list(value, ipv4).map(|servers| settings.dns = servers),
            Some(("ntp", value)) => list(value, server).map(|servers| settings.ntp = servers),
            Some(("console", value @ ("on" | "off"))) => {
                settings.console = value == "on";
                Ok(())
            }
            Some(("console", other)) => Err(format!("console is on or off, not {other:?}")),
            Some((key, _)) => Err(format!(
                "there is no key {key:?}; there are hostname, network, address, gateway, dns, ntp, console"
            )),
        };
        if let Err(why) = done {
            wrong.push(format!("line {} column {column}: {why}", number + 1));
        }
    }
    match (address, gateway) {
        (Some(address), gateway) => settings.network = Network::Static { address, gateway },
        (None, Some(_)) => wrong.push("gateway= needs address=; DHCP brings its own".into()),
        (None, None) => {}
    }
    (settings, wrong)
}

fn hostname(value: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let good = (1..=HOSTNAME_BYTES_MAX).contains(&value.len())
        && value.bytes().all(plain)
        && !value.starts_with('-');
    good.then(|| value.to_owned())
        .ok_or_else(|| format!("{value:?} is no host name: letters, digits and '-'"))
}

fn ipv4(value: &str) -> Result<Ipv4Addr, String> {
    value.parse().map_err(|_| format!("{value:?} is no IPv4 address"))
}

fn cidr(value: &str) -> Result<Cidr, String> {
    let wrong = || format!("{value:?} is not ADDRESS/PREFIX, as 192.168.1.7/24");
    let (address, prefix) = value.split_once('/').ok_or_else(wrong)?;
    let prefix = prefix
        .parse()
        .ok()
        .filter(|prefix| *prefix <= 32)
        .ok_or_else(wrong)?;
    let address = address.parse().map_err(|_| wrong())?;
    Ok(Cidr { address, prefix })
}

fn server(value: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    (!value.is_empty() && value.bytes().all(plain))
        .then(|| value.to_owned())
        .ok_or_else(|| format!("{value:?} is no server's name"))
}

fn list<T>(value: &str, parse: fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    value
        .split(',')
        .take(SERVERS_MAX)
        .map(|part| parse(part.trim()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_windows_editor_and_comments_do_no_harm() {
        let text = "\u{feff}# my board\r\nhostname=kitchen\r\n\r\naddress=192.0.2.7/24\r\ngateway = 192.0.2.1\r\ndns=192.0.2.1, 192.0.2.2\r\nconsole=on\r\n";
        let (settings, wrong) = parse(text);
        assert_eq!(wrong, Vec::<String>::new());
        let network = Network::Static {
            address: Cidr {
                address: [192, 0, 2, 7].into(),
                prefix: 24,
            },
            gateway: Some([192, 0, 2, 1].into()),
        };
        assert_eq!(
            settings,
            Settings {
                hostname: Some("kitchen".into()),
                network,
                dns: vec![[192, 0, 2, 1].into(), [192, 0, 2, 2].into()],
                ntp: vec![],
                console: true,
            }
        );
    }

    #[test]
    fn what_is_wrong_has_its_place_and_the_rest_counts() {
        for (line, why) in [
            ("hostnme=x", "line 2 column 9: there is no key \"hostnme\""),
            ("hostname=a b", "line 2 column 10"),
            ("hostname=", "no host name"),
            ("address=192.0.2.7", "ADDRESS/PREFIX"),
            ("address=192.0.2.7/33", "ADDRESS/PREFIX"),
            ("gateway=192.0.2.1", "needs address="),
            ("dns=one", "no IPv4 address"),
            ("ntp=a b", "no server's name"),
            ("network=wifi", "dhcp or off"),
            ("console=yes", "on or off"),
            ("hello", "line 2 column 1: is not KEY=VALUE"),
        ] {
            let (settings, wrong) = parse(&format!("hostname=good\n{line}\n"));
            assert_eq!(wrong.len(), 1, "{line}: {wrong:?}");
            assert!(wrong[0].contains(why), "{line}: {wrong:?}");
            assert_eq!(settings.hostname.as_deref(), Some("good"), "{line}");
            assert_eq!(settings.network, Network::Dhcp, "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_to_its_end(text: String) {
            parse(&text);
        }
    }
}
