//! What is measured: the names that are typed, and what each is.

use clap::ValueEnum;

/// A way to carry packets between two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum System {
    /// A veth pair between two hosts, without anything: the limit
    Veth,
    /// Two containers on a bridge, each by a veth pair
    Bridge,
    /// A TUN device without offloads, one packet per system call, not encrypted: what programs on TUN devices were like
    Classic,
    /// adit with super-packets, not encrypted
    Plain,
    /// adit as it is: encrypted
    Sealed,
    /// adit speaking WireGuard's protocol
    #[value(name = "wireguard")]
    WireGuard,
    /// adit carrying frames between TAP devices: encrypted
    Tap,
    /// The kernel's own tunnel, not encrypted
    Vxlan,
}

impl System {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 8] =
        [Self::Veth, Self::Bridge, Self::Classic, Self::Plain, Self::Sealed, Self::WireGuard, Self::Tap, Self::Vxlan];

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Bridge => "bridge",
            Self::Classic => "classic",
            Self::Plain => "plain",
            Self::Sealed => "sealed",
            Self::WireGuard => "wireguard",
            Self::Tap => "tap",
            Self::Vxlan => "vxlan",
        }
    }

    /// As a person reads it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Veth => "veth pair",
            Self::Bridge => "veth + bridge",
            Self::Classic => "classic TUN",
            Self::Plain => "adit plain",
            Self::Sealed => "adit sealed",
            Self::WireGuard => "adit wireguard",
            Self::Tap => "adit tap",
            Self::Vxlan => "kernel VXLAN",
        }
    }

    /// Whether nobody between the hosts can read what it carries.
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Sealed | Self::WireGuard | Self::Tap)
    }

    /// Whether daemons of ours carry it.
    pub fn is_ours(self) -> bool {
        !matches!(self, Self::Veth | Self::Bridge | Self::Vxlan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_what_is_named() {
        for system in System::ALL {
            assert_eq!(System::from_str(system.name(), false), Ok(system));
        }
        assert_eq!(System::value_variants().len(), System::ALL.len());
    }
}
