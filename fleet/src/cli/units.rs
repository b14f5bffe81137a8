//! Sizes, times and shares of a CPU as people write them.

use std::time::Duration;

/// `500ms`, `10s`, `2m`, `1h`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let number: u64 = number
        .parse()
        .map_err(|_| "write a time as 500ms, 10s, 2m or 1h".to_owned())?;
    let factor_ms = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("'{unit}' is no unit of time; ms, s, m and h are")),
    };
    // On the wire it is 32 bits of milliseconds.
    let ms = number
        .checked_mul(factor_ms)
        .filter(|ms| *ms <= u64::from(u32::MAX));
    ms.map(Duration::from_millis)
        .ok_or_else(|| "longer than 49 days".into())
}

/// `4096`, `512k`, `64m`, `1g`, each unit 1024 of the one before.
pub fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (number, unit) = split(&lower);
    let number: u64 = number
        .parse()
        .map_err(|_| "write a size as 4096, 512k, 64m or 1g".to_owned())?;
    let shift = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return Err(format!("'{unit}' is no unit of size; k, m and g are")),
    };
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "larger than 64 bits".into())
}

/// As [`bytes`], up to 4 GiB.
pub fn bytes_u32(text: &str) -> Result<u32, String> {
    bytes(text).and_then(|bytes| u32::try_from(bytes).map_err(|_| "larger than 4 GiB".into()))
}

/// `0.5` is 500 thousandths.
pub fn cpu_millis(text: &str) -> Result<u32, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 3 || (whole.is_empty() && fraction.is_empty())
    {
        return Err("write a number of CPUs as 2, 0.5 or 0.125".into());
    }
    let whole: u32 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| "too many CPUs")?
    };
    let fraction: u32 = format!("{fraction:0<3}").parse().map_err(|_| "no number")?;
    match whole
        .checked_mul(1000)
        .and_then(|millis| millis.checked_add(fraction))
    {
        None => Err("too many CPUs".into()),
        Some(0) => Err("it needs some CPU".into()),
        Some(millis) => Ok(millis),
    }
}

/// A size in at most four digits and a unit.
pub fn bytes_text(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let table = [
            ("500ms", Some(500)),
            ("10s", Some(10_000)),
            ("10", Some(10_000)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("", None),
            ("s", None),
            ("1d", None),
            ("-1s", None),
            ("50000000s", None),
        ];
        for (text, expected) in table {
            assert_eq!(duration(text).ok().map(|d| d.as_millis()), expected, "{text}");
        }
    }

    #[test]
    fn sizes() {
        let table = [
            ("4096", Some(4096)),
            ("64m", Some(64 << 20)),
            ("1G", Some(1 << 30)),
            ("512KiB", Some(512 << 10)),
            ("1t", None),
            ("", None),
            ("99999999999g", None),
        ];
        for (text, expected) in table {
            assert_eq!(bytes(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn shares_of_a_cpu() {
        let table = [
            ("0.5", Some(500)),
            ("2", Some(2000)),
            (".25", Some(250)),
            ("1.125", Some(1125)),
            ("0", None),
            ("", None),
            (".", None),
            ("1.2345", None),
            ("-1", None),
            ("9999999999", None),
        ];
        for (text, expected) in table {
            assert_eq!(cpu_millis(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(
            [0, 999, 1024, 1 << 20, 5_000_000_000].map(bytes_text),
            ["0 B", "999 B", "1.0 KiB", "1.0 MiB", "4.7 GiB"]
        );
    }
}
