//! Tokens: what lets a node in.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::bytes::Reader;
use super::keys::KEY;
use super::{MAX_ENDPOINTS, TrustError, label, random, sha256};

/// What every token begins with; the number is its version.
const HEAD: &str = "adit1.";
const MAX_ENDPOINT: usize = 255;
/// Bytes of a hash at the end, so that half a token is not mistaken for a bad one.
const CHECK: usize = 4;
/// Longer texts are no tokens: 8 endpoints, base64.
const MAX_TEXT: usize = 4096;

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It begins otherwise.
    #[error("this is not a token: one begins with \"adit1.\" and is printed by `adit init` and `adit token create`")]
    NotAToken,
    /// It begins like one.
    #[error("the token is damaged: copy the whole of it, from \"adit1.\" to its last letter")]
    Damaged,
    /// The random generator failed, or an endpoint is none.
    #[error("the token cannot be made: {0}")]
    Unmade(TrustError),
}

/// Where and how to join, once or a few times.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Where the enroller is, `host:port`: tried in turn.
    pub endpoints: Vec<String>,
    /// SHA-256 of the certificate (DER) that the enroller shows in TLS.
    pub pin: [u8; KEY],
    /// Which token.
    pub id: [u8; 8],
    /// What proves that one has it.
    pub secret: Zeroizing<[u8; KEY]>,
}

impl Token {
    /// A new token.
    ///
    /// # Errors
    /// No endpoint, more than 8, one that is none, or the random generator failed.
    pub fn generate(endpoints: Vec<String>, pin: [u8; KEY]) -> Result<Self, TokenError> {
        let fill = random().map_err(TokenError::Unmade)?;
        let id = *fill.first_chunk().ok_or(TokenError::Unmade(TrustError::Crypto))?;
        let secret = random().map_err(TokenError::Unmade)?;
        let proper = (1..=MAX_ENDPOINTS).contains(&endpoints.len()) && endpoints.iter().all(|text| is_place(text));
        if !proper {
            return Err(TokenError::Unmade(TrustError::Field("endpoints")));
        }
        Ok(Self { endpoints, pin, id, secret })
    }

    /// The id as it is shown: 16 hexadecimal digits. Not secret.
    pub fn id_text(&self) -> String {
        self.id.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What the authority keeps in place of the secret.
    pub(super) fn hash(secret: &[u8; KEY]) -> [u8; KEY] {
        sha256(&[label::TOKEN_SECRET, secret])
    }

    /// The whole text.
    pub fn text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
        bytes.extend(self.id);
        bytes.extend(self.secret.as_ref());
        bytes.extend(self.pin);
        bytes.push(self.endpoints.len() as u8);
        for endpoint in &self.endpoints {
            bytes.push(endpoint.len() as u8);
            bytes.extend(endpoint.as_bytes());
        }
        let check = check(&bytes);
        bytes.extend(check);
        let mut text = Zeroizing::new(String::with_capacity(MAX_TEXT));
        text.push_str(HEAD);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
        text
    }

    fn parse(bytes: &[u8]) -> Result<Self, TrustError> {
        let (body, sum) = bytes.split_at_checked(bytes.len().saturating_sub(CHECK)).ok_or(TrustError::Length)?;
        if check(body) != sum {
            return Err(TrustError::Length);
        }
        let mut reader = Reader::new(body);
        let id = reader.array()?;
        let secret = Zeroizing::new(reader.array()?);
        let pin = reader.array()?;
        let count = reader.u8()?;
        if !(1..=MAX_ENDPOINTS).contains(&count.into()) {
            return Err(TrustError::Field("endpoints"));
        }
        let mut endpoints = Vec::new();
        for _ in 0..count {
            let length = reader.u8()?;
            let text = std::str::from_utf8(reader.take(length.into())?).map_err(|_| TrustError::Field("endpoints"))?;
            if !is_place(text) {
                return Err(TrustError::Field("endpoints"));
            }
            endpoints.push(text.to_owned());
        }
        reader.end()?;
        Ok(Self { endpoints, pin, id, secret })
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let body = text.strip_prefix(HEAD).ok_or(TokenError::NotAToken)?;
        if text.len() > MAX_TEXT {
            return Err(TokenError::Damaged);
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Damaged)?);
        Self::parse(&bytes).map_err(|_| TokenError::Damaged)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, {:?}, ..)", self.id_text(), self.endpoints)
    }
}

fn check(body: &[u8]) -> [u8; CHECK] {
    let [a, b, c, d, ..] = sha256(&[label::TOKEN, body]);
    [a, b, c, d]
}

/// Whether a text is `host:port`: a name, an IPv4 address, or an IPv6 address in brackets, and a port that is not zero.
fn is_place(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':').filter(|_| text.len() <= MAX_ENDPOINT) else { return false };
    let is_port = port.parse::<u16>().is_ok_and(|number| number != 0 && number.to_string() == port);
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    is_port && is_host
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> Token {
        Token::generate(vec!["192.0.2.1:7780".into(), "[2001:db8::1]:7780".into(), "a.example:1".into()], [7; KEY])
            .unwrap()
    }

    #[test]
    fn a_token_comes_back_from_its_text_and_shows_no_secret() {
        let token = token();
        assert_eq!(format!("  {token}\n").parse(), Ok(token.clone()));
        assert!(token.to_string().starts_with("adit1."));
        let shown = format!("{token:?}");
        let secret: String = token.secret.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(shown.contains(&token.id_text()) && !shown.contains(&secret[..8]), "{shown}");
    }

    #[test]
    fn half_a_token_is_damaged() {
        let text = token().to_string();
        for cut in HEAD.len()..text.len() {
            assert_eq!(text[..cut].parse::<Token>(), Err(TokenError::Damaged), "{cut}");
        }
        assert_eq!("adit2.AAAA".parse::<Token>(), Err(TokenError::NotAToken));
        assert_eq!("".parse::<Token>(), Err(TokenError::NotAToken));
        assert_eq!(format!("{text}A").parse::<Token>(), Err(TokenError::Damaged));
    }

    #[test]
    fn endpoints_are_host_and_port() {
        for good in ["a:1", "192.0.2.1:65535", "[::1]:7780", "a-b.example:80"] {
            assert!(is_place(good), "{good}");
        }
        for bad in
            ["", "a", "a:", ":1", "a:0", "a:01", "a:65536", "::1:80", "[::1]", "a b:1", "[x]:1", "http://a:1", "a\n:1"]
        {
            assert!(!is_place(bad), "{bad}");
        }
        assert!(Token::generate(Vec::new(), [0; KEY]).is_err());
        assert!(Token::generate(vec!["a:1".into(); 9], [0; KEY]).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_a_token_or_an_error(text in "(adit1\\.)?[A-Za-z0-9_-]{0,300}") {
            if let Ok(token) = text.parse::<Token>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }

        #[test]
        fn a_changed_letter_is_noticed(at in 6usize..200, letter in "[A-Za-z0-9_-]") {
            let mut text = token().to_string();
            prop_assume!(at < text.len() && !text[at..].starts_with(&letter));
            text.replace_range(at..=at, &letter);
            prop_assert_eq!(text.parse::<Token>(), Err(TokenError::Damaged));
        }
    }
}
