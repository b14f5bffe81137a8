//! `linux.netDevices`: moves network devices of the host into the container's network namespace, with their addresses, and switches them on.
//! <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#network-devices>

use crate::error::{Error, OsContext, Result};
use crate::netlink::Netlink;
use crate::plan::NetDevicePlan;
use crate::plan::namespaces_bits::NETWORK;
use nix::unistd::Pid;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

/// Devices that are in the container. They stay there when it ends: the kernel moves real ones back and removes the others.
#[derive(Debug)]
pub(crate) struct Moved {
    host: OwnedFd,
    inside: Netlink,
    /// Index inside, name on the host.
    devices: Vec<(i32, String)>,
}

/// Moves all devices into the namespace of `pid`, or none.
pub(crate) fn move_in(plan: &[NetDevicePlan], pid: Pid) -> Result<Option<Moved>> {
    if plan.is_empty() {
        return Ok(None);
    }
    let open = |file: String| File::open(&file).map(OwnedFd::from).os("open", file);
    let target = open(format!("/proc/{pid}/ns/net"))?;
    let host = open("/proc/self/ns/net".to_owned())?;
    let outside = Netlink::open()?;
    punnet_sys::setns(target.as_fd(), NETWORK).os("look into", "the network namespace")?;
    let inside = Netlink::open();
    punnet_sys::setns(host.as_fd(), NETWORK).os("come back from", "the network namespace")?;
    let inside = inside?;
    // All of them are looked at before the first one moves.
    let indices = plan
        .iter()
        .map(|device| check(device, &outside, &inside))
        .collect::<Result<Vec<_>>>()?;
    let mut moved = Moved {
        host,
        inside,
        devices: Vec::new(),
    };
    for (device, index) in plan.iter().zip(indices) {
        if let Err(error) = moved.move_one(device, index, &outside, &target) {
            moved.back();
            return Err(error);
        }
    }
    Ok(Some(moved))
}

fn field(device: &NetDevicePlan) -> String {
    format!("linux.netDevices.{}", device.host)
}

fn check(device: &NetDevicePlan, outside: &Netlink, inside: &Netlink) -> Result<i32> {
    let index = outside.index(&device.host).os("look for", field(device))?;
    let Some(index) = index else {
        return Err(Error::config(field(device), "there is no such network device"));
    };
    if !device.is_template()
        && inside
            .index(&device.inside)
            .os("look for", field(device))?
            .is_some()
    {
        let reason = format!("a device named {} is in the container already", device.inside);
        return Err(Error::config(field(device), reason));
    }
    Ok(index)
}

impl Moved {
    fn move_one(
        &mut self,
        device: &NetDevicePlan,
        index: i32,
        outside: &Netlink,
        target: &OwnedFd,
    ) -> Result<()> {
        let addresses = outside
            .addresses(index)
            .os("read the addresses of", field(device))?;
        let before = self
            .inside
            .indices()
            .os("list", "the container's network devices")?;
        outside
            .move_to(index, target, &device.inside)
            .os("move into the container", field(device))?;
        // Its number may be another one there, and so may its name.
        let after = self
            .inside
            .indices()
            .os("list", "the container's network devices")?;
        let Some(index) = after.into_iter().find(|index| !before.contains(index)) else {
            return Err(Error::config(field(device), "has not come into the container"));
        };
        self.devices.push((index, device.host.clone()));
        for address in &addresses {
            self.inside
                .add_address(index, address)
                .os("give back the addresses of", field(device))?;
        }
        self.inside.up(index).os("switch on", field(device))
    }

    /// Moves all back: the container has not come about. Best effort, the first error is the one to tell.
    pub fn back(&self) {
        for (index, name) in &self.devices {
            self.inside.move_to(*index, &self.host, name).ok();
        }
    }
}
