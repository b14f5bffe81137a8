//! What follows from an answer, and how long to wait before asking again. Pure: the loop that obeys is in client.rs.

use super::http::Head;
use super::url::Url;
use std::time::Duration;

/// The first wait; each further one is twice as long.
const WAIT_FIRST: Duration = Duration::from_millis(500);
/// No single wait of our own is longer.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// What a server may ask us to wait; longer, and the user shall decide.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// Bytes between two losses that make the link a slow one rather than a dead one.
const PROGRESS_BYTES: u64 = 16 * 1024;

/// What to do with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is the one that was asked for.
    Use,
    /// There is no such thing.
    Missing,
    /// Ask there.
    Redirect(Url),
    /// Prove who asks.
    Authenticate,
    /// This one may not.
    Forbidden,
    /// Ask again, not before so long.
    Later(Option<Duration>),
    /// It is none of a registry; why.
    Nonsense(String),
}

/// Decides about an answer to a request to `url`. `reads` is GET or HEAD.
pub fn next(url: &Url, reads: bool, head: &Head) -> Next {
    match head.status {
        200..=299 => Next::Use,
        404 => Next::Missing,
        301..=303 if !reads => Next::Nonsense(format!("it redirects an upload with status {}", head.status)),
        301..=303 | 307 | 308 => redirect(url, head),
        401 => Next::Authenticate,
        403 => Next::Forbidden,
        408 | 429 | 500 | 502 | 503 | 504 => Next::Later(retry_after(head)),
        status => Next::Nonsense(format!("status {status}")),
    }
}

fn redirect(url: &Url, head: &Head) -> Next {
    match head.get("location").and_then(|location| url.join(location)) {
        Some(to) if url.origin.https && !to.origin.https => {
            Next::Nonsense(format!("it redirects from TLS to {}, which has none", to.origin))
        }
        Some(to) => Next::Redirect(to),
        None => Next::Nonsense("it redirects without saying where to".to_owned()),
    }
}

/// Seconds, or a date against the server's own: a board's clock may be wrong.
fn retry_after(head: &Head) -> Option<Duration> {
    let text = head.get("retry-after")?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let (then, now) = (unix_seconds(text)?, unix_seconds(head.get("date")?)?);
    Some(Duration::from_secs(then.saturating_sub(now)))
}

/// RFC 9110's IMF-fixdate: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn unix_seconds(text: &str) -> Option<u64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let words: Vec<&str> = text.split([' ', ':']).collect();
    let [_, day, month, year, hour, minute, second, "GMT"] = words.as_slice() else {
        return None;
    };
    let number = |text: &str, max: u64| text.parse().ok().filter(|&number: &u64| number <= max);
    let month = MONTHS.find(month).filter(|at| at % 3 == 0 && month.len() == 3)? as u64 / 3;
    let (day, year) = (number(day, 31)?, number(year, 9999).filter(|&year| year >= 1970)?);
    // Howard Hinnant's days_from_civil, for years that begin in March.
    let (year, month) = if month < 2 {
        (year - 1, month + 10)
    } else {
        (year, month - 2)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + number(hour, 23)? * 3600 + number(minute, 59)? * 60 + number(second, 60)?)
}

/// Counts what went wrong in a row.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    failures: u32,
    failures_max: u32,
    bytes: u64,
}

impl Pace {
    /// Gives up at the failure after so many.
    pub fn new(failures_max: u32) -> Self {
        Self {
            failures: 0,
            failures_max,
            bytes: 0,
        }
    }

    /// Data came.
    pub fn moved(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Something failed: how long to wait, or `None` to give up. `random` spreads a fleet that lost the same server at the same moment.
    pub fn again(&mut self, asked: Option<Duration>, random: u8) -> Option<Duration> {
        if std::mem::take(&mut self.bytes) >= PROGRESS_BYTES {
            self.failures = 0;
        }
        self.failures += 1;
        if self.failures > self.failures_max {
            return None;
        }
        if let Some(asked) = asked {
            return (asked <= RETRY_AFTER_MAX).then_some(asked);
        }
        let doubled = WAIT_FIRST
            .saturating_mul(1 << (self.failures - 1).min(16))
            .min(WAIT_MAX);
        Some(doubled.mul_f64(0.5 + f64::from(random) / 512.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, headers: &str) -> Head {
        Head::parse(format!("HTTP/1.1 {status} X\r\n{headers}\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn an_answer_decides_what_follows() {
        let url = Url::parse("https://r.example/v2/a").unwrap();
        let to = |text: &str| Next::Redirect(Url::parse(text).unwrap());
        let seconds = |count| Next::Later(Some(Duration::from_secs(count)));
        for (status, headers, expected) in [
            (200, "", Next::Use),
            (206, "", Next::Use),
            (404, "", Next::Missing),
            (
                307,
                "Location: https://cdn.example/x?sig=1\r\n",
                to("https://cdn.example/x?sig=1"),
            ),
            (302, "location: /y\r\n", to("https://r.example/y")),
            (
                302,
                "",
                Next::Nonsense("it redirects without saying where to".into()),
            ),
            (
                302,
                "Location: http://r.example/y\r\n",
                Next::Nonsense("it redirects from TLS to http://r.example, which has none".into()),
            ),
            (401, "", Next::Authenticate),
            (403, "", Next::Forbidden),
            (429, "Retry-After: 7\r\n", seconds(7)),
            (503, "", Next::Later(None)),
            (
                503,
                "Date: Wed, 31 Dec 2025 23:59:50 GMT\r\nRetry-After: Thu, 01 Jan 2026 00:00:10 GMT\r\n",
                seconds(20),
            ),
            (503, "Retry-After: soon\r\n", Next::Later(None)),
            (418, "", Next::Nonsense("status 418".into())),
            (304, "", Next::Nonsense("status 304".into())),
        ] {
            assert_eq!(
                next(&url, true, &head(status, headers)),
                expected,
                "{status} {headers}"
            );
        }
        assert!(matches!(
            next(&url, false, &head(302, "Location: /y\r\n")),
            Next::Nonsense(_)
        ));
        assert_eq!(
            next(&url, false, &head(307, "Location: /y\r\n")),
            to("https://r.example/y")
        );
    }

    #[test]
    fn dates_are_seconds() {
        assert_eq!(unix_seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(unix_seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(unix_seconds("Thu, 29 Feb 2024 12:00:00 GMT"), Some(1_709_208_000));
        assert_eq!(unix_seconds("Thu, 01 anF 2024 12:00:00 GMT"), None);
        assert_eq!(unix_seconds("Thu, 01 Jan 2024 12:00:00"), None);
    }

    #[test]
    fn waiting_doubles_ends_and_begins_anew_with_progress() {
        let mut pace = Pace::new(3);
        let waits: Vec<_> = (0..4)
            .map(|_| pace.again(None, 0).map(|wait| wait.as_millis()))
            .collect();
        assert_eq!(waits, [Some(250), Some(500), Some(1000), None]);
        let mut pace = Pace::new(1);
        for _ in 0..50 {
            pace.moved(PROGRESS_BYTES);
            assert!(pace.again(None, 255).is_some());
        }
        pace.moved(PROGRESS_BYTES - 1);
        assert_eq!(pace.again(None, 0), None);
        let asked = |seconds| Pace::new(1).again(Some(Duration::from_secs(seconds)), 0);
        assert_eq!((asked(300), asked(301)), (Some(Duration::from_secs(300)), None));
    }

    proptest::proptest! {
        #[test]
        fn any_date_is_answered(text in "\\PC{0,40}|[A-Za-z]{3}, [0-9]{1,3} [A-Za-z]{3} [0-9]{1,5} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT") {
            unix_seconds(&text);
        }
    }
}
