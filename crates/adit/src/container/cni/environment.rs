//! What a runtime says by variables of the environment (CNI specification 1.1.0, section 2, "Parameters").

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use super::config::{self, Mac};
use super::{Code, Error};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Attach a container.
    Add,
    /// Take an attachment away.
    Del,
    /// See whether an attachment is as it was made.
    Check,
    /// See whether containers can be attached.
    Status,
    /// Take away all attachments but those that are named.
    Gc,
    /// Say which versions are spoken.
    Version,
}

impl Verb {
    const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Status, Self::Gc, Self::Version];
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        })
    }
}

/// The variables, by name.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What is asked for, and of which attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attachment {
    /// The container, as its runtime calls it.
    pub(super) container: String,
    /// The device inside.
    pub(super) interface: String,
}

/// What `CNI_ARGS` has for us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    /// `IP`: the addresses that are wanted, at most one of each family.
    pub(super) ips: Vec<(IpAddr, Option<u8>)>,
    /// `MAC`.
    pub(super) mac: Option<Mac>,
    /// `K8S_POD_NAME`, which Podman gives too.
    pub(super) name: Option<String>,
}

/// The command.
///
/// # Errors
/// It is none.
pub(super) fn verb(lookup: Lookup<'_>) -> Result<Verb, Error> {
    let text = text(lookup, "CNI_COMMAND")?.unwrap_or_default();
    Verb::ALL.into_iter().find(|verb| verb.to_string() == text).ok_or_else(|| {
        let all: Vec<_> = Verb::ALL.iter().map(ToString::to_string).collect();
        Error::variable("CNI_COMMAND", format!("CNI_COMMAND is {text:?}; it has to be one of {}", all.join(", ")))
    })
}

/// Which attachment is meant.
///
/// # Errors
/// A variable is missing, or not of its form.
pub(super) fn attachment(lookup: Lookup<'_>) -> Result<Attachment, Error> {
    let container = required(lookup, "CNI_CONTAINERID")?;
    if !config::is_identifier(&container) {
        let details = format!(
            "CNI_CONTAINERID is {container:?}; it has to begin with a letter or digit, and go on with letters, digits, '_', '.' and '-'"
        );
        return Err(Error::variable("CNI_CONTAINERID", details));
    }
    let interface = required(lookup, "CNI_IFNAME")?;
    if !linux::netlink::is_valid_name(&interface) {
        let details = format!(
            "CNI_IFNAME is {interface:?}; a device name has 1 to 15 bytes, without '/', ':' and white space, and is not '.' or '..'"
        );
        return Err(Error::variable("CNI_IFNAME", details));
    }
    Ok(Attachment { container, interface })
}

/// Where its network namespace is.
///
/// # Errors
/// It is not said.
pub(super) fn namespace(lookup: Lookup<'_>) -> Result<PathBuf, Error> {
    lookup("CNI_NETNS").filter(|path| !path.is_empty()).map(PathBuf::from).ok_or_else(|| missing("CNI_NETNS"))
}

/// What `CNI_ARGS` has for us: `KEY=VALUE;KEY=VALUE`. Other keys are passed over only if `IgnoreUnknown` says so, as the stock plugins do.
///
/// # Errors
/// It is not of its form, or has a key that we do not know.
pub(super) fn arguments(lookup: Lookup<'_>) -> Result<Arguments, Error> {
    let text = text(lookup, "CNI_ARGS")?.unwrap_or_default();
    let wrong = |why: String| Error::variable("CNI_ARGS", format!("CNI_ARGS is {text:?}: {why}"));
    let (mut arguments, mut unknown, mut ignores) = (Arguments::default(), None, false);
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| wrong(format!("{pair:?} is no KEY=VALUE")))?;
        match key {
            "IP" => {
                let ips = value.split(',').filter(|ip| !ip.is_empty()).map(config::wanted);
                arguments.ips = ips.collect::<Result<_, _>>().map_err(wrong)?;
            }
            "MAC" if value.is_empty() => {}
            "MAC" => arguments.mac = Some(value.parse().map_err(wrong)?),
            "K8S_POD_NAME" => arguments.name = config::label(value),
            "K8S_POD_NAMESPACE" | "K8S_POD_INFRA_CONTAINER_ID" | "K8S_POD_UID" => {}
            "IgnoreUnknown" => {
                ignores = truth(value).ok_or_else(|| wrong(format!("IgnoreUnknown is {value:?}; write 1 or 0")))?
            }
            _ => unknown = unknown.or(Some(key)),
        }
    }
    match unknown {
        Some(key) if !ignores => {
            Err(wrong(format!("the key {key:?} is not known; leave it out, or add IgnoreUnknown=1")))
        }
        _ => Ok(arguments),
    }
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "t" | "yes" => Some(true),
        "0" | "false" | "f" | "no" => Some(false),
        _ => None,
    }
}

fn missing(name: &str) -> Error {
    Error::variable(name, format!("{name} is not set; the runtime has to set it"))
}

fn required(lookup: Lookup<'_>, name: &str) -> Result<String, Error> {
    text(lookup, name)?.filter(|text| !text.is_empty()).ok_or_else(|| missing(name))
}

fn text(lookup: Lookup<'_>, name: &str) -> Result<Option<String>, Error> {
    let text = lookup(name).map(OsString::into_string).transpose();
    text.map_err(|raw| Error::new(Code::InvalidEnvironment, format!("{name} is {raw:?}, which is no text")))
        .map_err(|error| Error { subject: Some(name.into()), ..error })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arguments(text: &str) -> Result<Arguments, Error> {
        super::arguments(&|name| (name == "CNI_ARGS").then(|| text.into()))
    }

    #[test]
    fn arguments_are_read_as_runtimes_write_them() {
        assert_eq!(arguments("").unwrap(), Arguments::default());
        let podman = arguments("IgnoreUnknown=1;K8S_POD_NAME=c1;IP=10.42.7.77;MAC=02:00:00:00:00:01").unwrap();
        assert_eq!(podman.name.as_deref(), Some("c1"));
        assert_eq!(podman.ips, [("10.42.7.77".parse().unwrap(), None)]);
        assert_eq!(podman.mac.unwrap().0, [2, 0, 0, 0, 0, 1]);
        let containerd = "K8S_POD_UID=u;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=i;IgnoreUnknown=1;NEW=1";
        assert_eq!(arguments(containerd).unwrap().name.as_deref(), Some("web-0"));
        let both = arguments("IP=10.42.7.77/24,fd77::9;IgnoreUnknown=true").unwrap();
        assert_eq!(both.ips, [("10.42.7.77".parse().unwrap(), Some(24)), ("fd77::9".parse().unwrap(), None)]);
    }

    #[test]
    fn arguments_that_cannot_be_followed_are_refused_by_name() {
        for text in [
            "NEW=1",
            "NEW=1;IgnoreUnknown=0",
            "IP",
            "IP=10.42.7",
            "IP=10.42.7.1/33",
            "MAC=1",
            "MAC=ff:ff:ff:ff:ff:ff",
            "IgnoreUnknown=maybe",
        ] {
            let error = arguments(text).unwrap_err();
            assert_eq!((error.code, error.subject.as_deref()), (Code::InvalidEnvironment, Some("CNI_ARGS")), "{text}");
        }
    }

    #[test]
    fn names_that_are_no_label_are_no_name_and_no_error() {
        for text in ["K8S_POD_NAME=", "K8S_POD_NAME=a_b", "K8S_POD_NAME=-a", "K8S_POD_NAME=../../etc"] {
            assert_eq!(arguments(text).unwrap().name, None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_environment_is_read_or_refused(command: String, container: String, interface: String, args in ".{0,80}") {
            let lookup = |name: &str| -> Option<OsString> {
                match name {
                    "CNI_COMMAND" => Some(command.clone().into()),
                    "CNI_CONTAINERID" => Some(container.clone().into()),
                    "CNI_IFNAME" => Some(interface.clone().into()),
                    "CNI_ARGS" => Some(args.clone().into()),
                    _ => None,
                }
            };
            let _ = verb(&lookup);
            let _ = super::arguments(&lookup);
            prop_assert_eq!(namespace(&lookup).unwrap_err().subject, Some("CNI_NETNS".to_owned()));
            if let Ok(attachment) = attachment(&lookup) {
                prop_assert!(!attachment.container.contains(['/', '\0']) && attachment.container != "..");
                prop_assert!(linux::netlink::is_valid_name(&attachment.interface));
            }
        }
    }
}
