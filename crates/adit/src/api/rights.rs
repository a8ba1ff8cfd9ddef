//! Who asks, and what it may ask.

use std::{fs, io, os::unix::net::UnixStream};

/// Members of this group may control daemons.
pub(super) const GROUP: &str = "adit";

/// Which of the two sockets a connection came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// `<device>.sock`
    Control,
    /// `<device>.status.sock`
    Status,
}

/// The user behind a connection, as the kernel noted it when it connected.
pub(super) fn user(stream: &UnixStream) -> io::Result<u32> {
    linux::privilege::peer_credentials(stream).map(|peer| peer.uid).map_err(io::Error::other)
}

/// Whether `user` may change what the daemon of `owner` does. The mode of the socket says the same; it is asked again here
/// because a file's mode can be changed by accident.
pub(super) fn may_control(user: u32, owner: u32) -> bool {
    user == 0 || user == owner || linux::privilege::user_in_group(user, GROUP).unwrap_or(false)
}

/// The number of group [`GROUP`], if the system has one.
pub(crate) fn group_id() -> Option<u32> {
    find_group(&fs::read_to_string("/etc/group").ok()?, GROUP)
}

/// Looks a group up in the text of /etc/group (group(5)): `name:password:number:members`.
fn find_group(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() == Some(name) { fields.nth(1)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_their_whole_name() {
        let text = "root:x:0:\nadit-old:x:7:\n# adit:x:8:\nadit:x:9:alice,bob\nbroken\nadit:x:10:\n";
        assert_eq!(find_group(text, "adit"), Some(9));
        assert_eq!(find_group(text, "root"), Some(0));
        assert_eq!(find_group(text, "broken"), None);
        assert_eq!(find_group("adit:x:many:\n", "adit"), None);
        assert_eq!(find_group("", "adit"), None);
    }

    #[test]
    fn the_kernel_says_who_asks() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let user = user(&ours).unwrap();
        assert!(may_control(user, user));
        assert!(may_control(0, user));
        // No system gives anybody the last number but one.
        assert!(!may_control(u32::MAX - 1, user));
    }
}
