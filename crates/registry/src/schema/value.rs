//! What a lease says of its node.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::Serialize;
use serde_json::Value;

use super::JsonError;
use super::go::{self, Fields};

/// Why a text is no value of a lease, as the end of a sentence that began with the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not an object, or with fields of other types.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A text that should be an address is none.
    #[error("has a \"{0}\" that is not an address")]
    Address(&'static str),
}

/// The value of a lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseValue {
    /// Where the node is. flannel writes `0.0.0.0` for none.
    pub public_ip: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub public_ipv6: Option<Ipv6Addr>,
    /// `adit`, `vxlan` …; flannel's udp writes none.
    pub backend_type: Option<String>,
    /// What the node's backend tells its peers.
    pub backend_data: Option<Value>,
    /// The same for IPv6.
    pub backend_v6_data: Option<Value>,
}

/// In flannel's order, with what it leaves out when empty.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(rename = "PublicIP")]
    public_ip: Ipv4Addr,
    #[serde(rename = "PublicIPv6")]
    public_ipv6: Option<Ipv6Addr>,
    #[serde(rename = "BackendType", skip_serializing_if = "Option::is_none")]
    backend_type: Option<&'a str>,
    #[serde(rename = "BackendData", skip_serializing_if = "Option::is_none")]
    backend_data: Option<&'a Value>,
    #[serde(rename = "BackendV6Data", skip_serializing_if = "Option::is_none")]
    backend_v6_data: Option<&'a Value>,
}

impl LeaseValue {
    /// Reads what flannel or adit wrote, or an administrator (a reservation may have `PublicIP` alone).
    ///
    /// # Errors
    /// [`ValueError`].
    pub fn parse(text: &[u8]) -> Result<Self, ValueError> {
        let fields = Fields::parse(text)?;
        let public_ip = match fields.text("PublicIP", "an IPv4 address")? {
            Some(text) => text.parse().map_err(|_| ValueError::Address("PublicIP"))?,
            None => Ipv4Addr::UNSPECIFIED,
        };
        let public_ipv6 = match fields.text("PublicIPv6", "an IPv6 address")? {
            Some(text) => Some(text.parse().map_err(|_| ValueError::Address("PublicIPv6"))?),
            None => None,
        };
        let backend_type = fields.text("BackendType", "a text")?.filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(Self {
            public_ip: (!public_ip.is_unspecified()).then_some(public_ip),
            public_ipv6,
            backend_type,
            backend_data: fields.get("BackendData").cloned(),
            backend_v6_data: fields.get("BackendV6Data").cloned(),
        })
    }

    /// The bytes that flannel would write. They can be longer than what [`parse`](Self::parse) takes if the data is (see [`MAX_LEN`](super::MAX_LEN)).
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        go::write(&Written {
            public_ip: self.public_ip.unwrap_or(Ipv4Addr::UNSPECIFIED),
            public_ipv6: self.public_ipv6,
            backend_type: self.backend_type.as_deref(),
            backend_data: self.backend_data.as_ref(),
            backend_v6_data: self.backend_v6_data.as_ref(),
        })
    }

    /// The node's signed record in base64, if it has one.
    #[must_use]
    pub fn signed(&self) -> Option<&str> {
        self.backend_data.as_ref()?.get("signed")?.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_udp_lease_has_exactly_flannels_bytes() {
        let value = LeaseValue { public_ip: Some(Ipv4Addr::new(1, 2, 3, 4)), ..LeaseValue::default() };
        assert_eq!(value.to_json(), br#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#);
        assert_eq!(LeaseValue::parse(&value.to_json()), Ok(value));
    }

    #[test]
    fn fields_stand_in_flannels_order() {
        let text = br#"{"PublicIP":"1.2.3.4","PublicIPv6":"fd00::1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"},"BackendV6Data":{"VNI":2}}"#;
        let value = LeaseValue::parse(text).unwrap();
        assert_eq!(value.backend_type.as_deref(), Some("vxlan"));
        assert_eq!(value.to_json(), text);
    }

    #[test]
    fn a_reservation_may_say_the_address_alone() {
        let value = LeaseValue::parse(br#" {"publicip":"1.2.3.4"} "#).unwrap();
        assert_eq!(value, LeaseValue { public_ip: Some(Ipv4Addr::new(1, 2, 3, 4)), ..LeaseValue::default() });
        assert_eq!(LeaseValue::parse(b"{}"), Ok(LeaseValue::default()));
        assert_eq!(LeaseValue::default().to_json(), br#"{"PublicIP":"0.0.0.0","PublicIPv6":null}"#);
    }

    #[test]
    fn the_signed_record() {
        let signed = |data| LeaseValue { backend_data: Some(data), ..LeaseValue::default() };
        assert_eq!(signed(json!({"signed": "QUJD"})).signed(), Some("QUJD"));
        assert_eq!(signed(json!({"signed": 7})).signed(), None);
        assert_eq!(signed(json!("signed")).signed(), None);
        assert_eq!(LeaseValue::default().signed(), None);
    }

    #[test]
    fn what_is_no_value() {
        for text in [
            "",
            "[]",
            "junk",
            r#"{"PublicIP":7}"#,
            r#"{"PublicIP":"1.2.3"}"#,
            r#"{"PublicIP":"fd00::1"}"#,
            r#"{"PublicIPv6":"1.2.3.4"}"#,
            r#"{"BackendType":{}}"#,
        ] {
            assert!(LeaseValue::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    fn any_data() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 20, 5, |inner| {
            prop::collection::btree_map("[a-zA-Z<&]{1,8}", inner, 0..5).prop_map(|map| json!(map))
        })
    }

    proptest! {
        #[test]
        fn values_come_back(
            v4 in prop::option::of(1u32..), v6 in prop::option::of(any::<u128>()), kind in prop::option::of(".{1,12}"),
            data in prop::option::of(any_data()), v6_data in prop::option::of(any_data()),
        ) {
            let value = LeaseValue {
                public_ip: v4.map(Ipv4Addr::from_bits), public_ipv6: v6.map(Ipv6Addr::from_bits),
                backend_type: kind, backend_data: data, backend_v6_data: v6_data,
            };
            let text = value.to_json();
            prop_assert_eq!(LeaseValue::parse(&text), Ok(value));
            prop_assert!(!text.iter().any(|byte| b"<>&".contains(byte)));
        }

        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[{}\\[\\]\":,a-zA-Z0-9.]{0,100}") {
            let _ = LeaseValue::parse(&bytes);
            let _ = LeaseValue::parse(text.as_bytes());
        }
    }
}
