//! Errors as runtimes read them: JSON on standard output (CNI specification 1.1.0, section 5, "Error").

use serde_json::json;

use super::Version;
use crate::container::{Fault, FaultKind};

/// Codes: those of the specification below 100, ours from 100 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// A version of the protocol that we do not speak, or in which there is no such command.
    IncompatibleVersion = 1,
    /// The configuration asks for what we cannot do; the message has key and value.
    UnsupportedField = 2,
    /// There is no such attachment: nothing has to be cleaned up.
    UnknownContainer = 3,
    /// A variable of the environment is missing or wrong; the message has its name.
    InvalidEnvironment = 4,
    /// A file, or standard input, could not be read or written.
    Io = 5,
    /// The configuration is no JSON, or not of its form.
    Decode = 6,
    /// The configuration is wrong.
    InvalidConfiguration = 7,
    /// Not now: the same may succeed later.
    TryAgain = 11,
    /// Of STATUS: nothing can be added.
    NotAvailable = 50,
    /// Of STATUS: nothing can be added, and what is there reaches only a part of the network.
    LimitedConnectivity = 51,
    /// All addresses of the node are given out.
    Exhausted = 100,
    /// The address that was asked for is another's.
    AddressTaken = 101,
    /// The port that was to be published is in use.
    PortTaken = 102,
    /// There is such an interface or attachment already, or a device that is not ours.
    Exists = 103,
    /// Of CHECK: the attachment is not as it was made.
    NotAsMade = 104,
    /// The kernel refused.
    Kernel = 105,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::IncompatibleVersion,
        Self::UnsupportedField,
        Self::UnknownContainer,
        Self::InvalidEnvironment,
        Self::Io,
        Self::Decode,
        Self::InvalidConfiguration,
        Self::TryAgain,
        Self::NotAvailable,
        Self::LimitedConnectivity,
        Self::Exhausted,
        Self::AddressTaken,
        Self::PortTaken,
        Self::Exists,
        Self::NotAsMade,
        Self::Kernel,
    ];

    /// A few words for it.
    pub fn words(self) -> &'static str {
        match self {
            Self::IncompatibleVersion => "incompatible CNI version",
            Self::UnsupportedField => "unsupported field in the network configuration",
            Self::UnknownContainer => "unknown container",
            Self::InvalidEnvironment => "invalid environment variable",
            Self::Io => "input or output failed",
            Self::Decode => "the configuration cannot be decoded",
            Self::InvalidConfiguration => "invalid network configuration",
            Self::TryAgain => "try again later",
            Self::NotAvailable => "the network is not available",
            Self::LimitedConnectivity => "the network is not available, and containers reach only a part of it",
            Self::Exhausted => "no address is free",
            Self::AddressTaken => "the address is taken",
            Self::PortTaken => "the port is taken",
            Self::Exists => "it exists already",
            Self::NotAsMade => "the attachment is not as it was made",
            Self::Kernel => "the kernel refused",
        }
    }
}

/// An error of the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What sort of error it is.
    pub code: Code,
    /// What in particular a program is to find in the short message: the name of a variable, a key and its value.
    pub subject: Option<String>,
    /// What failed, why, and what to do.
    pub details: String,
}

impl Error {
    /// An error.
    pub fn new(code: Code, details: impl Into<String>) -> Self {
        Self { code, subject: None, details: details.into() }
    }

    /// One about a variable of the environment.
    pub fn variable(name: &str, details: impl Into<String>) -> Self {
        Self { code: Code::InvalidEnvironment, subject: Some(name.into()), details: details.into() }
    }

    /// One about a key of the configuration that we cannot follow.
    pub fn unsupported(key: &str, value: &impl std::fmt::Display, details: impl Into<String>) -> Self {
        Self { code: Code::UnsupportedField, subject: Some(format!("{key}: {value}")), details: details.into() }
    }

    /// What ADD, DEL, CHECK or GC say of a fault.
    pub fn of(fault: Fault) -> Self {
        let code = match fault.kind {
            FaultKind::NotReady => Code::TryAgain,
            FaultKind::Invalid => Code::InvalidConfiguration,
            FaultKind::Exhausted => Code::Exhausted,
            FaultKind::AddressTaken => Code::AddressTaken,
            FaultKind::PortTaken => Code::PortTaken,
            FaultKind::Exists => Code::Exists,
            FaultKind::NoNamespace => return Self::variable("CNI_NETNS", fault.sentence),
            FaultKind::NotAsMade => Code::NotAsMade,
            FaultKind::Storage => Code::Io,
            FaultKind::Kernel => Code::Kernel,
        };
        Self::new(code, fault.sentence)
    }

    /// As a runtime reads it.
    pub fn to_json(&self, version: Version) -> String {
        let words = self.code.words();
        let message = self.subject.as_ref().map_or_else(|| words.to_owned(), |subject| format!("{words}: {subject}"));
        let error = json!({
            "cniVersion": version.to_string(),
            "code": self.code as u8,
            "msg": message,
            "details": self.details,
        });
        format!("{error}\n")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_those_of_the_specification_or_our_own_and_none_means_two_things() {
        let of_the_specification = [1, 2, 3, 4, 5, 6, 7, 11, 50, 51];
        let codes: HashSet<u8> = Code::ALL.iter().map(|code| *code as u8).collect();
        assert_eq!(codes.len(), Code::ALL.len());
        assert!(codes.iter().all(|code| *code >= 100 || of_the_specification.contains(code)));
        let words: HashSet<_> = Code::ALL.iter().map(|code| code.words()).collect();
        assert_eq!(words.len(), Code::ALL.len());
    }

    #[test]
    fn a_program_finds_what_it_is_about_in_the_short_message() {
        let error = Error::unsupported("ipMasq", &true, "no");
        let json: serde_json::Value = serde_json::from_str(&error.to_json(Version::V1_0_0)).unwrap();
        assert_eq!(json["cniVersion"], "1.0.0");
        assert_eq!(json["code"], 2);
        assert!(json["msg"].as_str().unwrap().ends_with("ipMasq: true"));
        assert_eq!(json["details"], "no");
        let fault = Fault::new(FaultKind::NoNamespace, "there is none");
        assert!(Error::of(fault).to_json(Version::LATEST).contains("CNI_NETNS"));
    }
}
