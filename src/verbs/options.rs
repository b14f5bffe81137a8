//! Values of options as Docker's users write them.

use nix::sys::signal::Signal;

/// `64m`, `1g`, `65536`: bytes, with k, m, g for powers of 1024.
pub fn size_bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let shift = match text.as_bytes().last()? {
        b'k' => 10,
        b'm' => 20,
        b'g' => 30,
        _ => return text.parse().ok(),
    };
    text[..text.len() - 1]
        .parse::<u64>()
        .ok()?
        .checked_mul(1 << shift)
}

/// `10`, `10s`, `2m`: whole seconds.
pub fn duration_s(text: &str) -> Option<u64> {
    match text.strip_suffix('m') {
        Some(minutes) => minutes.parse::<u64>().ok()?.checked_mul(60),
        None => text.strip_suffix('s').unwrap_or(text).parse().ok(),
    }
}

/// `1.5`: thousandths of a CPU.
pub fn cpu_millis(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part: u32 = format!("{part:0<3}").parse().ok()?;
    whole
        .parse::<u32>()
        .ok()?
        .checked_mul(1000)?
        .checked_add(part)
        .filter(|&millis| millis > 0)
}

/// `TERM`, `SIGTERM`, `15`; real-time signals as `SIGRTMIN+3` (signal(7)).
pub fn signal_number(text: &str) -> Option<i32> {
    const SIGRTMIN: i32 = 34;
    const SIGRTMAX: i32 = 64;
    if let Ok(number) = text.parse() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let number = SIGRTMIN
            + if offset.is_empty() {
                0
            } else {
                offset.strip_prefix('+')?.parse::<i32>().ok()?
            };
        return (SIGRTMIN..=SIGRTMAX).contains(&number).then_some(number);
    }
    format!("SIG{name}")
        .parse::<Signal>()
        .ok()
        .map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        let cases = [
            ("1024", Some(1024)),
            ("64m", Some(64 << 20)),
            ("1G", Some(1 << 30)),
            ("5kb", Some(5 << 10)),
            ("", None),
            ("m", None),
            ("-1", None),
        ];
        for (text, want) in cases {
            assert_eq!(size_bytes(text), want, "{text:?}");
        }
        assert_eq!(size_bytes("99999999999999999999g"), None);
    }

    #[test]
    fn cpus_are_thousandths() {
        let cases = [
            ("1", Some(1000)),
            ("0.5", Some(500)),
            ("1.250", Some(1250)),
            ("0", None),
            ("0.0001", None),
            (".5", None),
            ("x", None),
        ];
        for (text, want) in cases {
            assert_eq!(cpu_millis(text), want, "{text:?}");
        }
    }

    #[test]
    fn signals_have_names_and_numbers() {
        let cases = [
            ("TERM", Some(15)),
            ("sigkill", Some(9)),
            ("1", Some(1)),
            ("RTMIN+3", Some(37)),
            ("0", None),
            ("99", None),
            ("NOPE", None),
        ];
        for (text, want) in cases {
            assert_eq!(signal_number(text), want, "{text:?}");
        }
    }

    #[test]
    fn durations_are_whole_seconds() {
        assert_eq!(
            (
                duration_s("10"),
                duration_s("3s"),
                duration_s("2m"),
                duration_s("1h")
            ),
            (Some(10), Some(3), Some(120), None)
        );
    }
}
