//! Who is here: tokens that stand for a name and a password, and the end of all that somebody has open who is no longer welcome.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, metadata::MetadataMap, service::Interceptor};

use super::{
    doors::{Doors, Visit},
    policy::{Mandate, Policy, Principal},
    refusal::Refusal,
};

/// How long a token lasts that nobody uses (etcd's, for its simple tokens).
const UNUSED: Duration = Duration::from_secs(300);

/// Tokens in all, and of one principal: the one that was not used for longest makes room.
const TOKENS: usize = 16_384;
const TOKENS_OF_ONE: usize = 64;

/// Passwords that are compared at once: a policy may take its time over one.
const COMPARISONS: usize = 2;

/// Somebody whose request is being served.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) mandate: Mandate,
    presence: Arc<Presence>,
}

impl Member {
    /// Resolves once they are no longer welcome.
    pub(super) fn ended(&self) -> CancellationToken {
        self.presence.ended.clone()
    }

    /// Who sent a request.
    pub(super) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        request.extensions().get::<Self>().cloned().ok_or_else(|| Refusal::UserEmpty.into())
    }
}

/// What all requests of a principal share.
#[derive(Default)]
struct Presence {
    ended: CancellationToken,
}

pub(super) struct Sessions {
    policy: Arc<dyn Policy>,
    table: Mutex<Table>,
    comparisons: Semaphore,
}

#[derive(Default)]
struct Table {
    // By digest: a copy of this memory opens nothing.
    tokens: HashMap<[u8; 32], Token>,
    present: HashMap<Principal, Arc<Presence>>,
}

struct Token {
    who: Principal,
    used: Instant,
}

impl Sessions {
    pub(super) fn new(policy: Arc<dyn Policy>) -> Self {
        Self { policy, table: Mutex::default(), comparisons: Semaphore::new(COMPARISONS) }
    }

    /// Makes a token for whoever has this name and password.
    pub(super) async fn authenticate(&self, user: String, password: String) -> Result<(String, Principal), Refusal> {
        let _place = self.comparisons.acquire().await.map_err(|_| Refusal::Stopped)?;
        let policy = Arc::clone(&self.policy);
        let who = tokio::task::spawn_blocking(move || {
            let password = zeroize::Zeroizing::new(password);
            let who = policy.authenticate(&user, &password).filter(|who| policy.still_valid(who));
            who.ok_or_else(|| policy.farewell(&user))
        });
        let who = match who.await.map_err(|_| Refusal::Stopped)? {
            Ok(who) => who,
            Err(_) if self.policy.anonymous().is_some() => return Err(Refusal::AuthNotEnabled),
            Err(farewell) => return Err(farewell.map_or(Refusal::AuthFailed, Refusal::PutOut)),
        };
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).map_err(|_| Refusal::Store("the system has no random numbers".into()))?;
        let token = URL_SAFE_NO_PAD.encode(secret);
        self.table().issue(hash(token.as_bytes()), who.clone(), Instant::now());
        Ok((token, who))
    }

    /// Who sends this.
    fn admit(&self, metadata: &MetadataMap) -> Result<Member, Refusal> {
        let token = metadata.get("token").or_else(|| metadata.get("authorization"));
        let who = match token {
            Some(token) => self.table().use_of(&hash(token.as_bytes()), Instant::now()).ok_or(Refusal::InvalidToken)?,
            None => self.policy.anonymous().ok_or(Refusal::UserEmpty)?,
        };
        if !self.policy.still_valid(&who) {
            self.table().end(&who);
            return Err(Refusal::InvalidToken);
        }
        let presence = Arc::clone(self.table().present.entry(who.clone()).or_default());
        Ok(Member { mandate: Mandate { who, policy: Arc::clone(&self.policy) }, presence })
    }

    /// Ends what is over. Returns who is no longer welcome.
    pub(super) fn sweep(&self, now: Instant) -> Vec<Principal> {
        // The policy is asked without the lock: it may have locks of its own.
        let present: Vec<Principal> = self.table().present.keys().cloned().collect();
        let gone: Vec<Principal> = present.into_iter().filter(|who| !self.policy.still_valid(who)).collect();
        let mut table = self.table();
        for who in &gone {
            table.end(who);
        }
        table.forget(now);
        gone
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn issue(&mut self, token: [u8; 32], who: Principal, now: Instant) {
        if self.tokens.len() >= TOKENS {
            self.forget(now);
        }
        if self.tokens.values().filter(|other| other.who == who).count() >= TOKENS_OF_ONE {
            self.drop_oldest(|other| other.who == who);
        }
        if self.tokens.len() >= TOKENS {
            self.drop_oldest(|_| true);
        }
        self.present.entry(who.clone()).or_default();
        self.tokens.insert(token, Token { who, used: now });
    }

    fn drop_oldest(&mut self, of: impl Fn(&Token) -> bool) {
        let oldest = self
            .tokens
            .iter()
            .filter(|(_, token)| of(token))
            .min_by_key(|(_, token)| token.used)
            .map(|(hash, _)| *hash);
        if let Some(oldest) = oldest {
            self.tokens.remove(&oldest);
        }
    }

    fn use_of(&mut self, token: &[u8; 32], now: Instant) -> Option<Principal> {
        let known = self.tokens.get_mut(token).filter(|known| now.duration_since(known.used) < UNUSED)?;
        known.used = now;
        Some(known.who.clone())
    }

    fn end(&mut self, who: &Principal) {
        if let Some(presence) = self.present.remove(who) {
            presence.ended.cancel();
        }
        self.tokens.retain(|_, token| token.who != *who);
    }

    fn forget(&mut self, now: Instant) {
        self.tokens.retain(|_, token| now.duration_since(token.used) < UNUSED);
        let known: HashSet<&Principal> = self.tokens.values().map(|token| &token.who).collect();
        self.present.retain(|who, presence| Arc::strong_count(presence) > 1 || known.contains(who));
    }
}

fn hash(token: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, token).as_ref());
    bytes
}

/// Asks who sends a request, before any of its body is read.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) sessions: Arc<Sessions>,
    pub(super) doors: Arc<Doors>,
}

impl Interceptor for Guard {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let member = self.sessions.admit(request.metadata())?;
        if let Some(visit) = Visit::of(&request) {
            self.doors.trust(&visit, &member.mandate.who);
        }
        request.extensions_mut().insert(member);
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(serial: u32) -> Principal {
        Principal(format!("node-{serial}"))
    }

    #[test]
    fn a_token_lasts_while_it_is_used_and_five_minutes_more() {
        let start = Instant::now();
        let mut table = Table::default();
        table.issue([1; 32], node(1), start);
        assert_eq!(table.use_of(&[1; 32], start + Duration::from_secs(299)), Some(node(1)));
        assert_eq!(table.use_of(&[1; 32], start + Duration::from_secs(598)), Some(node(1)));
        assert_eq!(table.use_of(&[1; 32], start + Duration::from_secs(898)), None);
        table.forget(start + Duration::from_secs(898));
        assert!(table.tokens.is_empty() && table.present.is_empty());
    }

    #[test]
    fn the_token_that_was_not_used_for_longest_makes_room() {
        let start = Instant::now();
        let mut table = Table::default();
        for number in 0..=u8::try_from(TOKENS_OF_ONE).unwrap() {
            table.issue([number; 32], node(1), start + Duration::from_millis(u64::from(number)));
        }
        assert_eq!(table.tokens.len(), TOKENS_OF_ONE);
        assert_eq!(table.use_of(&[0; 32], start), None);
        assert_eq!(table.use_of(&[1; 32], start), Some(node(1)));
    }

    #[test]
    fn whoever_is_no_longer_welcome_has_no_token_and_hears_of_it() {
        let start = Instant::now();
        let mut table = Table::default();
        table.issue([1; 32], node(1), start);
        table.issue([2; 32], node(2), start);
        let ended = table.present[&node(1)].ended.clone();
        table.end(&node(1));
        assert!(ended.is_cancelled());
        assert_eq!(table.use_of(&[1; 32], start), None);
        assert_eq!(table.use_of(&[2; 32], start), Some(node(2)));
    }
}
