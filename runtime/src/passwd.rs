//! Users by their ids, from /etc/passwd as it is seen now: the host's, or after pivot_root(2) the image's. passwd(5)
//!
//! Not by getpwuid(3): it loads modules for directory services, which a static program with glibc does not survive.

use crate::paths::open_plain;
use nix::fcntl::OFlag;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Perhaps an image's file: read no more than any real one has.
const PASSWD_BYTES_MAX: u64 = 1024 * 1024;

/// The user's name; `None` for one that the file does not have.
pub fn user_name(uid: u32) -> Option<String> {
    field(&text(), uid, 0).map(str::to_owned)
}

/// The user's home directory, if it is an absolute path.
pub(crate) fn home(uid: u32) -> Option<String> {
    let text = text();
    let home = field(&text, uid, 5)?;
    home.starts_with('/').then(|| home.to_owned())
}

fn text() -> String {
    let mut bytes = Vec::new();
    let Ok(fd) = open_plain(Path::new("/etc/passwd"), OFlag::O_RDONLY | OFlag::O_NONBLOCK) else {
        return String::new();
    };
    match File::from(fd).take(PASSWD_BYTES_MAX).read_to_end(&mut bytes) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

/// A field of the first line of this user's.
fn field(text: &str, uid: u32, number: usize) -> Option<&str> {
    text.lines()
        .find(|line| line.split(':').nth(2).and_then(|id| id.parse().ok()) == Some(uid))?
        .split(':')
        .nth(number)
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn the_first_line_of_a_user_counts() {
        let text = "root:x:0:0:root:/root:/bin/sh\nbroken\nann:x:7:7::/home/ann:\nbob:x:7:7::/home/bob:\nx:x:many:0::/:\n";
        assert_eq!(field(text, 0, 5), Some("/root"));
        assert_eq!(field(text, 7, 0), Some("ann"));
        assert_eq!(field(text, 8, 0), None);
        assert_eq!(field("", 0, 0), None);
    }
}
