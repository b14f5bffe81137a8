//! Any bytes as what a board meets before anybody has vouched for it: DHCP and SNTP answers, device events, partitions, settings, the module
//! index. The first byte says which. Nothing panics, and what is accepted makes sense.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use punnet_init::plan::{dhcp, disk, modules, netlink, settings, sntp, uevent};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const XID: u32 = 0x0102_0304;

fuzz_target!(|bytes: &[u8]| {
    let Some((which, rest)) = bytes.split_first() else {
        return;
    };
    match which % 7 {
        0 => answers(rest),
        1 => {
            sntp::time_ms(rest, 0, 1_800_000_000);
        }
        2 => {
            uevent::parse(rest);
        }
        3 => {
            disk::identify(rest);
            if let Some(grown) = disk::grown(rest, 2, 1 << 40) {
                let own = disk::mbr(&grown).unwrap_or_default();
                assert!(own.iter().any(|partition| partition.number == 2));
            }
        }
        4 => {
            let (settings, _) = settings::parse(&String::from_utf8_lossy(rest));
            assert!(settings.hostname.is_none_or(|name| name.len() <= 63));
        }
        5 => {
            let text = String::from_utf8_lossy(rest);
            let index = modules::parse(&text);
            index.at_boot();
            index.for_device("usb:v0403p6001d0600dc00dsc00dp00icFFiscFFipFFin00");
        }
        _ => {
            netlink::acknowledgement(rest);
        }
    }
});

/// Packets of any content, each with its length before it, to a client that waits for them.
fn answers(mut rest: &[u8]) {
    let mut now = Duration::ZERO;
    let mut client = dhcp::Client::new(MAC, "kitchen".into(), XID, now);
    client.wake(now);
    while let [low, high, after @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let (packet, next) = after.split_at(length);
        rest = next;
        now += Duration::from_secs(20);
        for action in client.receive(packet, now).into_iter().chain(client.wake(now)) {
            if let dhcp::Action::Take(lease) = action {
                assert!(lease.address.prefix <= 32 && !lease.address.address.is_loopback());
            }
        }
    }
}
