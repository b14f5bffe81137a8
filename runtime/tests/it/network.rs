//! Network devices of the host that move into a container.

use crate::bundle::Bundle;
use crate::references::differs;
use punnet_spec::{Namespace, NetDevice};
use std::process::Command;

fn ip(words: &[&str]) -> bool {
    let output = Command::new("ip").args(words).output().unwrap();
    if !output.status.success() {
        println!("ip {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

/// One end of a veth pair, with addresses; it goes with the test, or with the container.
struct Device(String);

impl Device {
    /// One letter a device: the kernel takes its time to remove those of a container that has ended.
    fn new(letter: char) -> Self {
        let device = Self(format!("pn{letter}{}", std::process::id()));
        let (name, other) = (device.0.as_str(), format!("{}x", device.0));
        assert!(ip(&["link", "add", name, "type", "veth", "peer", "name", &other]));
        assert!(ip(&["addr", "add", "192.0.2.7/24", "dev", name]));
        assert!(ip(&["addr", "add", "2001:db8::7/64", "dev", name]));
        device
    }

    fn is_on_the_host(&self) -> bool {
        std::path::Path::new("/sys/class/net").join(&self.0).exists()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.is_on_the_host() {
            ip(&["link", "del", &self.0]);
        }
    }
}

fn moving(script: &str, device: &Device, name: &str) -> Bundle {
    let mut bundle = Bundle::sh(script);
    let inside = NetDevice { name: name.into() };
    bundle.linux().net_devices.insert(device.0.clone(), inside);
    bundle
}

#[test]
fn a_network_device_moves_with_its_addresses_and_is_on() {
    if differs("a_network_device_moves_with_its_addresses_and_is_on") {
        // The field is younger than the references.
        return;
    }
    for (letter, name, expected) in [('a', "lan0", "lan0"), ('e', "wan%d", "wan0")] {
        let device = Device::new(letter);
        let script = format!("ip addr show dev {expected}; ip route");
        let text = moving(&script, &device, name).output();
        for word in ["UP", "192.0.2.7/24", "2001:db8::7/64", "192.0.2.0/24 dev"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}

#[test]
fn a_network_device_keeps_its_name_unless_another_is_asked_for() {
    if differs("a_network_device_keeps_its_name_unless_another_is_asked_for") {
        return;
    }
    let device = Device::new('b');
    let bundle = moving("sleep 100", &device, "");
    bundle.start();
    assert!(!device.is_on_the_host());
    let answer = bundle.call(&["exec", &bundle.id(), "ip", "addr", "show", "dev", &device.0]);
    assert!(answer.out.contains("192.0.2.7/24"), "{answer:?}");
}

#[test]
fn a_network_device_that_cannot_move_stays_as_it_was() {
    if differs("a_network_device_that_cannot_move_stays_as_it_was") {
        return;
    }
    let device = Device::new('c');
    let taken = moving("true", &device, "lo");
    let mut missing = moving("true", &device, "lan0");
    missing
        .linux()
        .net_devices
        .insert("pn-none".into(), NetDevice::default());
    // Set-up fails after the device has moved.
    let mut late = moving("true", &device, "lan0");
    late.linux().sysctl.insert("net.nonsense".into(), "1".into());
    for (bundle, word) in [
        (taken, "in the container already"),
        (missing, "no such network device"),
        (late, "net/nonsense"),
    ] {
        let answer = bundle.run();
        assert!(answer.code == 125 && answer.err.contains(word), "{answer:?}");
        assert!(device.is_on_the_host(), "{answer:?}");
    }
}

#[test]
fn a_network_device_moves_into_a_joined_namespace_too() {
    if differs("a_network_device_moves_into_a_joined_namespace_too") {
        return;
    }
    let device = Device::new('d');
    let first = Bundle::sh("sleep 100");
    first.start();
    let mut second = moving("ip addr show dev lan0", &device, "lan0");
    for namespace in &mut second.linux().namespaces {
        if namespace.kind == "network" {
            *namespace = Namespace {
                kind: "network".into(),
                path: format!("/proc/{}/ns/net", first.pid()),
            };
        }
    }
    let text = second.output();
    assert!(text.contains("192.0.2.7/24"), "{text}");
}
