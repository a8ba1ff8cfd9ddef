//! The programs of the host that set resolvers, and how each is called.

use std::ffi::OsString;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use linux::netlink::Netlink;

use super::failed;
use crate::config::Dns;
use crate::{Failure, Result};

/// How long a program may take: it may restart a server of the host's.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often to look whether it has ended.
const LOOK: Duration = Duration::from_millis(5);

/// Where the programs are beside the search path, which of an ordinary user has no sbin.
const PLACES: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where systemd-resolved listens, and answers only while it runs (systemd-resolved.service(8)).
const RESOLVED_SOCKET: &str = "/run/systemd/resolve/io.systemd.Resolve";

/// What systemd-resolved listens on as a DNS server (resolved.conf(5), DNSStubListener).
const RESOLVED_SERVERS: [&str; 2] = ["127.0.0.53", "127.0.0.54"];

/// Priorities by the beginning of an entry's name, of Debian's resolvconf (interface-order(5)).
const INTERFACE_ORDER: &str = "/etc/resolvconf/interface-order";

/// How resolvers are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// systemd-resolved is told of the device.
    Resolved,
    /// resolvconf has an entry for us: openresolv, Debian's own, or whatever goes by that name.
    Resolvconf { entry: String },
}

impl Way {
    /// The way of this host.
    ///
    /// # Errors
    /// There is none, with what to install.
    pub(super) fn find(device: &str) -> Result<Self> {
        if device.starts_with(['-', '.']) {
            return Err(Failure::usage(format!(
                "the host's programs for DNS take the device name {device} for something else: choose one that begins with a letter"
            )));
        }
        if find_program("resolvectl").is_some() && asks_resolved() {
            return Ok(Self::Resolved);
        }
        if find_program("resolvconf").is_some() {
            let order = fs::read_to_string(INTERFACE_ORDER).unwrap_or_default();
            return Ok(Self::Resolvconf { entry: prefix(&order) + device });
        }
        Err(Failure::failed("the configuration names DNS servers, and nothing on this host can set them").with_remedy(
            "install openresolv (or resolvconf, or use systemd-resolved), or take the line with the DNS servers out",
        ))
    }

    /// As a line of a file.
    pub(super) fn line(&self) -> String {
        match self {
            Self::Resolved => "resolved adit\n".into(),
            Self::Resolvconf { entry } => format!("resolvconf {entry} adit\n"),
        }
    }

    /// The way that such a line says, if it is a whole one.
    pub(super) fn from_line(line: &str) -> Option<Self> {
        match line.strip_suffix(" adit\n")?.split(' ').collect::<Vec<_>>()[..] {
            ["resolved"] => Some(Self::Resolved),
            ["resolvconf", entry] if is_entry(entry) => Some(Self::Resolvconf { entry: entry.into() }),
            _ => None,
        }
    }

    /// Lets all questions go to these servers.
    pub(super) fn set(&self, device: &str, dns: &Dns) -> Result<()> {
        match self {
            Self::Resolved => {
                let servers: Vec<String> = dns.servers.iter().map(IpAddr::to_string).collect();
                let words = |words: &[&str], more: &[String]| -> Result<()> {
                    let words: Vec<&str> = words.iter().copied().chain(more.iter().map(String::as_str)).collect();
                    run("resolvectl", &words, "")
                };
                words(&["dns", device], &servers)?;
                // "~.": every name, whatever other links say.
                words(&["domain", device, "~."], &dns.domains)?;
                words(&["default-route", device, "yes"], &[])
            }
            // 0 is the best metric, -x says that no other servers are to be asked. Debian's own ignores both.
            Self::Resolvconf { entry } => run("resolvconf", &["-a", entry, "-m", "0", "-x"], &text(dns)),
        }
    }

    /// Takes that back. A device that is gone took its resolvers along.
    pub(super) fn unset(&self, device: &str) -> Result<()> {
        match self {
            Self::Resolved if Netlink::open()?.link(device)?.is_none() => Ok(()),
            Self::Resolved => run("resolvectl", &["revert", device], ""),
            Self::Resolvconf { entry } => run("resolvconf", &["-d", entry, "-f"], ""),
        }
    }
}

/// In the format of resolv.conf(5).
fn text(dns: &Dns) -> String {
    let mut text: String = dns.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if !dns.domains.is_empty() {
        text += &format!("search {}\n", dns.domains.join(" "));
    }
    text
}

/// Whether the host's questions go to systemd-resolved: it runs, and the C library is told to ask it.
fn asks_resolved() -> bool {
    let link = fs::canonicalize("/etc/resolv.conf").is_ok_and(|path| path.starts_with("/run/systemd/resolve"));
    let asked = link
        || fs::read_to_string("/etc/resolv.conf").is_ok_and(|text| names_resolved(&text))
        || fs::read_to_string("/etc/nsswitch.conf").is_ok_and(|text| has_module(&text));
    asked && UnixStream::connect(RESOLVED_SOCKET).is_ok()
}

/// Whether a resolv.conf(5) names it as a server.
fn names_resolved(text: &str) -> bool {
    let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.into_iter().any(|words| matches!(words[..], ["nameserver", server, ..] if RESOLVED_SERVERS.contains(&server)))
}

/// Whether an nsswitch.conf(5) has its module (nss-resolve(8)) for host names.
fn has_module(text: &str) -> bool {
    text.lines()
        .filter_map(|line| line.trim_start().strip_prefix("hosts:"))
        .any(|line| line.split('#').next().unwrap_or("").split_whitespace().any(|module| module == "resolve"))
}

/// The beginning that gives our entry a tunnel's priority: that of the first pattern which is a word and an asterisk.
fn prefix(order: &str) -> String {
    let is_word = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let word = order.lines().filter_map(|line| line.trim().strip_suffix('*')).find(is_word);
    word.map(|word| format!("{word}.")).unwrap_or_default()
}

/// Whether a text is the name of an entry such as we make.
fn is_entry(text: &str) -> bool {
    !text.starts_with(['-', '.'])
        && !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// The search path, and the usual places.
fn search_path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":");
    path.push(PLACES);
    let places: Vec<PathBuf> = env::split_paths(&path).filter(|place| place.is_absolute()).collect();
    env::join_paths(places).unwrap_or_else(|_| PLACES.into())
}

fn find_program(name: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|place| place.join(name)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Runs a program to its end, with this text as its input. What it says goes where our log goes.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let failed = |why: &dyn std::fmt::Display| failed(program, arguments, why);
    let Some(path) = find_program(program) else { return Err(failed(&"it is not installed any more")) };
    let mut child = Command::new(path)
        .args(arguments)
        .env_clear()
        .env("PATH", search_path())
        // Its own, so that Ctrl-C stops us and leaves it its time.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| failed(&e))?;
    // Less than a pipe holds, so that it does not block; one that does not want it has closed its end.
    let given = child.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(input.as_bytes()));
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return given.map_err(|e| failed(&e)),
            Ok(Some(status)) => return Err(failed(&status)),
            Ok(None) if Instant::now() < deadline => thread::sleep(LOOK),
            Ok(None) => {
                let _ = child.kill().and_then(|()| child.wait());
                return Err(failed(&format!("it did not end within {} s", PATIENCE.as_secs())));
            }
            Err(e) => return Err(failed(&e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_domains_as_resolv_conf_has_them() {
        let mut dns = Dns { servers: vec!["10.0.0.53".parse().unwrap(), "fd00::53".parse().unwrap()], domains: vec![] };
        assert_eq!(text(&dns), "nameserver 10.0.0.53\nnameserver fd00::53\n");
        dns.domains = vec!["example.org".into(), "lan".into()];
        assert_eq!(text(&dns), "nameserver 10.0.0.53\nnameserver fd00::53\nsearch example.org lan\n");
    }

    #[test]
    fn who_is_asked_shows_in_two_files() {
        for text in ["nameserver 127.0.0.53\n", "# x\n  nameserver\t127.0.0.54 # y\n"] {
            assert!(names_resolved(text), "{text}");
        }
        for text in ["", "nameserver 192.0.2.53\n", "# nameserver 127.0.0.53\n", "search 127.0.0.53\n"] {
            assert!(!names_resolved(text), "{text}");
        }
        assert!(has_module("passwd: files\nhosts: mymachines resolve [!UNAVAIL=return] files\n"));
        for text in ["hosts: files dns\n", "passwd: resolve\n", "hosts: files # resolve\n", "#hosts: resolve\n"] {
            assert!(!has_module(text), "{text}");
        }
    }

    #[test]
    fn an_entry_has_the_priority_of_a_tunnel() {
        for (order, prefix) in [
            ("", ""),
            ("lo.inet6\nlo.@(dhclient)\nlo!(pppd)\ntun*\ntap*\n", "tun."),
            ("# tun*\neth+([0-9]).dhclient\n *\nvpn-1* \n", "vpn-1."),
            ("@(br|eth)*\n", ""),
        ] {
            assert_eq!(self::prefix(order), prefix, "{order}");
        }
    }

    #[test]
    fn lines_of_the_record() {
        for way in [Way::Resolved, Way::Resolvconf { entry: "tun.wg0".into() }] {
            assert_eq!(Way::from_line(&way.line()), Some(way));
        }
        for line in ["", "resolved", "resolvconf adit\n", "resolvconf -x adit\n", "resolvconf a;b adit\n", "x adit\n"] {
            assert_eq!(Way::from_line(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_name_that_looks_like_an_option_is_refused() {
        for device in ["-f", ".a"] {
            assert!(Way::find(device).unwrap_err().to_string().contains("begins with a letter"));
        }
    }
}
