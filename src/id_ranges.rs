//! Ranges of user and group ids that the administrator has granted for user namespaces. subuid(5), subgid(5)

use std::fs;
use std::path::Path;

use nix::unistd::geteuid;

/// Ids of the host, in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// One range of users and one of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// From /etc/subuid.
    pub users: Range,
    /// From /etc/subgid.
    pub groups: Range,
}

/// The programs that map an ordinary user's ranges; set-user-id, of shadow.
const MAPPERS: [&str; 2] = ["newuidmap", "newgidmap"];

/// What the calling user may map, when the programs that do it are there, too.
pub fn of_caller() -> Option<Ranges> {
    let uid = geteuid().as_raw();
    let name = punnet_runtime::user_name(uid).unwrap_or_default();
    let ranges = of(&name, Some(uid))?;
    MAPPERS
        .iter()
        .all(|program| is_in_path(program))
        .then_some(ranges)
}

/// What was granted to a user of this name, or of this id.
pub fn of(name: &str, uid: Option<u32>) -> Option<Ranges> {
    let largest = |path: &str| largest(&fs::read_to_string(path).ok()?, name, uid);
    Some(Ranges {
        users: largest("/etc/subuid")?,
        groups: largest("/etc/subgid")?,
    })
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(program).is_file())
}

/// The largest of a user's ranges in such a file's text: lines of `NAME-OR-UID:FIRST:COUNT`.
fn largest(text: &str, name: &str, uid: Option<u32>) -> Option<Range> {
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let is_ours = (!name.is_empty() && owner == name) || uid.is_some_and(|uid| owner == uid.to_string());
        let range = Range {
            first: fields.next()?.parse().ok()?,
            count: fields.next()?.parse().ok()?,
        };
        let fits = range.count > 0 && range.first.checked_add(range.count).is_some();
        // Root's own id is nobody's to give away.
        (is_ours && fits && range.first > 0).then_some(range)
    };
    text.lines().filter_map(range).max_by_key(|range| range.count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_range_of_the_user_counts() {
        let text = "# comment\nother:100000:65536\nann:300000:10\nann:200000:65536\n1000:400000:70000\nann:x:1\nann:0:65536\nann:4294967295:9\nann\n";
        let found = |name, uid| largest(text, name, uid).map(|range| (range.first, range.count));
        assert_eq!(found("ann", None), Some((200_000, 65_536)));
        assert_eq!(found("ann", Some(1000)), Some((400_000, 70_000)));
        assert_eq!(found("", Some(7)), None);
        assert_eq!(found("", None), None);
        assert_eq!(found("bob", Some(10)), None);
    }
}
