//! Device events of the kernel (Linux `lib/kobject_uevent.c`): `ACTION@DEVPATH`, then `KEY=VALUE`, each closed by a zero.

/// One event, as far as it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Uevent<'a> {
    /// add, remove, change, bind, ...
    pub action: &'a str,
    /// block, net, usb, ...
    pub subsystem: &'a str,
    /// What a driver would match on.
    pub modalias: Option<&'a str>,
}

/// Reads one message; `None` when it is none of the kernel's.
pub fn parse(message: &[u8]) -> Option<Uevent<'_>> {
    let mut parts = message.split(|&byte| byte == 0).map(std::str::from_utf8);
    let (action, _) = parts.next()?.ok()?.split_once('@')?;
    let mut event = Uevent {
        action,
        ..Uevent::default()
    };
    for part in parts {
        match part.ok()?.split_once('=') {
            Some(("SUBSYSTEM", value)) => event.subsystem = value,
            Some(("MODALIAS", value)) => event.modalias = Some(value),
            _ => {}
        }
    }
    Some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_read_and_the_rest_is_not_missed() {
        let usb = b"add@/devices/usb1\0ACTION=add\0SUBSYSTEM=usb\0MODALIAS=usb:v0403p6001d0600\0SEQNUM=7\0";
        let want = Uevent {
            action: "add",
            subsystem: "usb",
            modalias: Some("usb:v0403p6001d0600"),
        };
        assert_eq!(parse(usb), Some(want));
        // The copy that a device manager sends, noise, nothing.
        for other in [&b"libudev\0\xfe\xed\xca\xfe"[..], b"\xff@x\0", b""] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }
}
