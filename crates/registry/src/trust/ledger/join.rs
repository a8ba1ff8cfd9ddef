//! Coming in: tokens, and what they are exchanged for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::constant_time;

use super::books::{Books, Hash, MemberEntry, TokenEntry};
use super::{Credential, Ledger, LedgerError, new_credential, user_of};
use crate::trust::{Certificate, Epoch, Serial, Subject, Token};

/// How many tokens can be out at once.
const MAX_OPEN: usize = 1024;
/// How long one that cannot be used any more is remembered, to say why.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a node asks with. That it has the private keys was checked before.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// Which token.
    pub token_id: &'a [u8; 8],
    /// What proves that it has that.
    pub token_secret: &'a [u8; 32],
    /// What it wants to be called.
    pub name: &'a str,
    /// Its public Ed25519 key.
    pub record_key: &'a [u8; 32],
    /// Its public X25519 key.
    pub sealed_key: &'a [u8; 32],
}

/// What a node gets that is let in.
pub struct Admitted {
    /// Who it is.
    pub certificate: Certificate,
    /// The epoch in force.
    pub epoch: Epoch,
    /// Its user of the registry. Its password before, if it had one, is void.
    pub credential: Credential,
    /// Whether it was in already, and the answer got lost.
    pub again: bool,
}

impl Ledger {
    /// A token for `uses` nodes until `ttl` is over, with the enroller's endpoints (`host:port`) and the pin of its certificate. Its secret is not kept.
    ///
    /// # Errors
    /// No endpoint or a bad one, too many tokens, or the books cannot be written.
    pub fn create_token(
        &self,
        endpoints: Vec<String>,
        pin: [u8; 32],
        ttl: Duration,
        uses: u32,
        now: SystemTime,
    ) -> Result<Token, LedgerError> {
        let token = Token::generate(endpoints, pin).map_err(|error| match error {
            crate::trust::TokenError::Unmade(fault) => LedgerError::Trust(fault),
            _ => LedgerError::UnknownToken,
        })?;
        let now = seconds(now);
        let entry = TokenEntry {
            id: token.id_text(),
            secret: Hash(Token::hash(&token.secret)),
            created: now,
            expires: now.saturating_add(ttl.as_secs()),
            uses,
            used_by: Vec::new(),
            revoked: false,
        };
        self.change(|books| {
            let forgotten = |token: &TokenEntry| token.expires.saturating_add(REMEMBERED.as_secs()) < now;
            books.tokens.retain(|token| !forgotten(token));
            if books.tokens.iter().filter(|token| token.is_open(now)).count() >= MAX_OPEN {
                return Err(LedgerError::TooManyTokens);
            }
            books.tokens.push(entry);
            Ok(())
        })?;
        Ok(token)
    }

    /// Takes a token back; who came in with it stays.
    ///
    /// # Errors
    /// There is none with this id, or the books cannot be written.
    pub fn revoke_token(&self, id: &str) -> Result<(), LedgerError> {
        self.change(|books| match books.tokens.iter_mut().find(|token| token.id == id) {
            Some(token) => {
                token.revoked = true;
                Ok(())
            }
            None => Err(LedgerError::NoSuchToken(id.to_owned())),
        })
    }

    /// Certifies a node without a token: that of the authority's own host. The same words again give the same certificate.
    ///
    /// # Errors
    /// Name or keys are another's, or the books cannot be written.
    pub fn certify(
        &self,
        name: &str,
        keys: ([u8; 32], [u8; 32]),
        roles: u8,
        now: SystemTime,
    ) -> Result<Certificate, LedgerError> {
        self.change(|books| {
            let serial = match books.find(name, keys)? {
                Found::Same(serial) => serial,
                Found::New => self.enter(books, name, keys, roles, now)?,
            };
            self.certificate(books, serial)
        })
    }

    /// Lets a node in, if its token is good. Asked again with the same token by the same node, it answers again: the first answer may have been lost.
    ///
    /// # Errors
    /// The token is not good, name or keys are another's, or the books cannot be written. Nothing is used up then.
    pub fn admit(&self, ask: &Ask<'_>, now: SystemTime) -> Result<Admitted, LedgerError> {
        let keys = (*ask.record_key, *ask.sealed_key);
        // A wrong token costs no lock and no reading of files.
        self.books()?.token(ask)?;
        self.change(|books| {
            let at = books.token(ask)?;
            let found = books.find(ask.name, keys);
            let used = books.tokens.get(at).map_or(&[][..], |token| &token.used_by);
            let again = matches!(&found, Ok(Found::Same(serial)) if used.contains(serial));
            books.check_token(at, again, seconds(now))?;
            let serial = match found? {
                Found::Same(serial) => serial,
                Found::New => self.enter(books, ask.name, keys, 0, now)?,
            };
            if let Some(token) = books.tokens.get_mut(at).filter(|_| !again) {
                token.used_by.push(serial);
            }
            let (credential, hash) = new_credential(user_of(serial))?;
            if let Some(member) = books.member_mut(serial) {
                member.password = Some(hash);
            }
            Ok(Admitted { certificate: self.certificate(books, serial)?, epoch: books.epoch(), credential, again })
        })
    }

    /// Whether a token is good, without using it up.
    ///
    /// # Errors
    /// It is not, or the books cannot be read.
    pub fn look(&self, token_id: &[u8; 8], token_secret: &[u8; 32], now: SystemTime) -> Result<(), LedgerError> {
        let nobody = [0; 32];
        let ask = Ask { token_id, token_secret, name: "", record_key: &nobody, sealed_key: &nobody };
        let books = self.books()?;
        let at = books.token(&ask)?;
        books.check_token(at, false, seconds(now))
    }

    /// Writes a new node into the books.
    fn enter(
        &self,
        books: &mut Books,
        name: &str,
        (record_key, sealed_key): ([u8; 32], [u8; 32]),
        roles: u8,
        now: SystemTime,
    ) -> Result<Serial, LedgerError> {
        if books.is_full() {
            return Err(LedgerError::Full);
        }
        let serial = books.next_serial;
        books.next_serial += 1;
        books.members.push(MemberEntry {
            serial,
            name: name.to_owned(),
            record_key: Hash(record_key),
            sealed_key: Hash(sealed_key),
            roles,
            joined: seconds(now),
            removed: None,
            password: None,
        });
        // Signed before it is written, so that what cannot be certified is not in the books.
        self.certificate(books, serial).map(|_| serial)
    }

    /// The certificate of a node. Ed25519 signs the same words the same way each time.
    fn certificate(&self, books: &Books, serial: Serial) -> Result<Certificate, LedgerError> {
        let member = books.member(serial).ok_or_else(|| LedgerError::NoSuchNode(serial.to_string()))?;
        Ok(self.authority.certify(Subject {
            serial,
            name: member.name.clone(),
            record_key: member.record_key.0,
            sealed_key: member.sealed_key.0,
            roles: member.roles,
        })?)
    }
}

/// Whether somebody is known.
enum Found {
    /// The same name and the same keys.
    Same(Serial),
    /// Neither.
    New,
}

impl Books {
    /// Who has this name and these keys.
    fn find(&self, name: &str, keys: ([u8; 32], [u8; 32])) -> Result<Found, LedgerError> {
        for member in &self.members {
            let owns = (member.record_key.0 == keys.0, member.sealed_key.0 == keys.1);
            match (owns, member.removed) {
                ((false, false), _) => {}
                (_, Some(_)) => return Err(LedgerError::Removed(member.name.clone())),
                ((true, true), None) if member.name == name => return Ok(Found::Same(member.serial)),
                ((true, true), None) => return Err(LedgerError::AlreadyJoined(member.name.clone())),
                _ => return Err(LedgerError::KeyTaken(member.name.clone())),
            }
        }
        match self.present().find(|member| member.name.eq_ignore_ascii_case(name)) {
            Some(member) => Err(LedgerError::NameTaken(member.name.clone())),
            None => Ok(Found::New),
        }
    }

    /// Which token it is, if the secret is right.
    fn token(&self, ask: &Ask<'_>) -> Result<usize, LedgerError> {
        let id: String = ask.token_id.iter().map(|byte| format!("{byte:02x}")).collect();
        let at = self.tokens.iter().position(|token| token.id == id);
        let kept = at.and_then(|at| self.tokens.get(at)).map_or([0; 32], |token| token.secret.0);
        let same = constant_time::verify_slices_are_equal(&kept, &Token::hash(ask.token_secret)).is_ok();
        at.filter(|_| same).ok_or(LedgerError::UnknownToken)
    }

    /// Whether a token can be used, or used again by somebody whom it let in.
    fn check_token(&self, at: usize, again: bool, now: u64) -> Result<(), LedgerError> {
        let token = self.tokens.get(at).ok_or(LedgerError::UnknownToken)?;
        if token.revoked {
            Err(LedgerError::RevokedToken)
        } else if again || token.is_open(now) {
            Ok(())
        } else if token.used_by.is_empty() || (token.used_by.len() as u64) < u64::from(token.uses) {
            Err(LedgerError::ExpiredToken)
        } else {
            Err(LedgerError::UsedToken(self.names(&token.used_by)))
        }
    }
}

/// Seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
