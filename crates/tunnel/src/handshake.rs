//! Who speaks, and under which keys: the handshake of both encrypted protocols, message by message.
//!
//! Both are Noise's IKpsk2 over X25519 and BLAKE2s; they differ in cipher, prologue, payloads and in what becomes of the
//! two keys at the end. Times, indices, ephemeral keys and whether a CPU has AES come from outside, so that the same
//! arguments give the same bytes. What a handshake costs is at most two agreements for each message read or written;
//! [`admission`](crate::admission) says who may ask for it.

use std::sync::Arc;

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use snow::HandshakeState;
use subtle::ConstantTimeEq;
use wire::message::payload::{ANSWER, HELLO, TIMESTAMP};
use wire::message::{Answer, Handshake, HandshakeHeader, Hello, Outcome, Protocol, Step, Tai64n};
use zeroize::Zeroizing;

use crate::noise::{Ephemeral, KeyPair, Start};

pub use wire::message::Suite;

/// The network of peers that a file names: none.
pub const NO_NETWORK: [u8; 16] = [0; 16];
/// The first part of the sealed transport's prologue.
const SEALED_PROLOGUE: &[u8] = b"adit sealed v1";
/// The prologue of WireGuard (the paper, section 5.4).
const WIREGUARD_PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// What the data keys of the sealed transport are for.
const SEALED_DATA: &[u8] = b"adit sealed v1 data";
/// The longest Noise message, that of a sealed initiation, in bytes.
const NOISE_MAX: usize = Protocol::Sealed.noise_len(Step::Initiation);

const fn noise_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Sealed => "Noise_IKpsk2_25519_AESGCM_BLAKE2s",
        Protocol::WireGuard => "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s",
    }
}

/// Why there are no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Another protocol's message, or not the one that is due.
    #[error("not the message that is due")]
    WrongMessage,
    /// A response to another initiation.
    #[error("a response to another initiation")]
    WrongReceiver,
    /// It does not open: another key, pre-shared key or network, or changed on its way.
    #[error("not authentic")]
    NotAuthentic,
    /// A public key that agrees with every other on zero.
    #[error("the public key is of low order")]
    LowOrder,
    /// The other side has our own key.
    #[error("the public key is our own")]
    OwnKey,
    /// Authentic, and undefined.
    #[error("an undefined value in the payload")]
    Payload,
    /// Not the suite that follows from what both CPUs have.
    #[error("not the suite that follows from both CPUs")]
    Suite,
    /// This handshake has had its response.
    #[error("the handshake is over")]
    Over,
    /// The cryptographic library refused what it has no cause to.
    #[error("the cryptographic library failed")]
    Library,
}

impl From<snow::Error> for Failure {
    fn from(error: snow::Error) -> Self {
        match error {
            snow::Error::Decrypt => Self::NotAuthentic,
            snow::Error::Dh => Self::LowOrder,
            _ => Self::Library,
        }
    }
}

/// Our static key.
pub struct Identity(Arc<KeyPair>);

impl Identity {
    /// The identity of a private key. Its bytes are copied into the cryptographic library, which erases them at the end.
    ///
    /// # Errors
    /// [`Failure::Library`].
    pub fn new(private: &[u8; 32]) -> Result<Self, Failure> {
        let pair = KeyPair::new(private).map_err(|_| Failure::Library)?;
        Ok(Self(Arc::new(pair)))
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        self.0.public()
    }
}

/// The keys of a session's data.
pub struct Keys {
    /// For what we send.
    pub send: Zeroizing<[u8; 32]>,
    /// For what we receive.
    pub receive: Zeroizing<[u8; 32]>,
    /// The AEAD that they are for.
    pub suite: Suite,
}

/// What an authentic response led to.
pub enum Finished {
    /// There is a session.
    Established {
        /// Its keys.
        keys: Keys,
        /// The index by which the responder knows it.
        receiver_index: u32,
        /// What the responder said; nothing in WireGuard.
        answer: Option<Answer>,
    },
    /// There is none, and why.
    Refused(Answer),
}

/// What both ends have before the first message, beside their static keys.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    /// The network that a sealed handshake is for, or [`NO_NETWORK`].
    pub network: &'a [u8; 16],
    /// The pre-shared key; zeros where there is none.
    pub psk: &'a [u8; 32],
}

impl<'a> Shared<'a> {
    /// What two peers have that a file names.
    #[must_use]
    pub fn of_file(psk: &'a [u8; 32]) -> Self {
        Self { network: &NO_NETWORK, psk }
    }
}

/// An initiation that waits for its response.
pub struct Initiator {
    recipe: Recipe,
    /// `None` once the response came.
    state: Option<HandshakeState>,
}

/// All that an initiation is made of. The same recipe gives the same message and the same state behind it.
struct Recipe {
    protocol: Protocol,
    identity: Arc<KeyPair>,
    remote: [u8; 32],
    network: [u8; 16],
    psk: Zeroizing<[u8; 32]>,
    sender: u32,
    hello: Hello,
    ephemeral: Zeroizing<[u8; 32]>,
}

/// Begins a handshake with the owner of the public key `remote`. Gives the pending state and the message, both of its MACs
/// still zero. `sender` is the index by which we will know the session. WireGuard knows no networks, and says nothing of `hello` but its
/// timestamp.
///
/// # Errors
/// [`Failure::OwnKey`], [`Failure::LowOrder`], [`Failure::Library`].
pub fn initiate(
    protocol: Protocol,
    identity: &Identity,
    remote: &[u8; 32],
    shared: Shared<'_>,
    sender: u32,
    hello: &Hello,
    ephemeral: Zeroizing<[u8; 32]>,
) -> Result<(Initiator, Vec<u8>), Failure> {
    if remote == identity.public() {
        return Err(Failure::OwnKey);
    }
    let identity = Arc::clone(&identity.0);
    let (network, psk) = (*shared.network, Zeroizing::new(*shared.psk));
    let recipe = Recipe { protocol, identity, remote: *remote, network, psk, sender, hello: *hello, ephemeral };
    let (state, message) = recipe.start()?;
    Ok((Initiator { recipe, state: Some(state) }, message))
}

impl Recipe {
    fn start(&self) -> Result<(HandshakeState, Vec<u8>), Failure> {
        let header =
            HandshakeHeader { protocol: self.protocol, step: Step::Initiation, sender: self.sender, receiver: 0 };
        let ephemeral = Ephemeral::default();
        ephemeral.put(self.ephemeral.clone());
        let prologue = prologue(self.protocol, &self.network, &header.head());
        let (name, identity) = (noise_name(self.protocol), &self.identity);
        let start = Start { name, prologue: &prologue, identity, ephemeral: &ephemeral };
        let mut state = start.initiator(&self.remote, &self.psk)?;
        let hello = self.hello.emit();
        let payload = match self.protocol {
            Protocol::Sealed => &hello[..],
            Protocol::WireGuard => &self.hello.timestamp.0,
        };
        let message = write(&mut state, header, payload)?;
        Ok((state, message))
    }
}

impl Initiator {
    /// Changes the pre-shared key: no byte of the initiation depends on it, so that it counts for the response already.
    pub fn set_preshared(&mut self, psk: &[u8; 32]) {
        self.recipe.psk = Zeroizing::new(*psk);
        let set = self.state.as_mut().map(|state| state.set_psk(2, psk));
        if set.is_some_and(|set| set.is_err()) {
            // What cannot be set again is begun again.
            self.state = self.recipe.start().ok().map(|(state, _)| state);
        }
    }

    /// Takes a response. After an error all is as before: a genuine response that comes later still works.
    ///
    /// # Errors
    /// [`Failure::Over`] after the genuine response; each of the others is the response's fault.
    pub fn finish(&mut self, response: &Handshake<'_>) -> Result<Finished, Failure> {
        let state = self.state.as_mut().ok_or(Failure::Over)?;
        if (response.protocol(), response.step()) != (self.recipe.protocol, Step::Response) {
            return Err(Failure::WrongMessage);
        }
        if response.receiver() != self.recipe.sender {
            return Err(Failure::WrongReceiver);
        }
        let mut payload = [0; ANSWER];
        // snow puts back what it changed if the message does not open.
        state.read_message(response.noise(), &mut payload)?;
        let finished = self.recipe.conclude(state, response.sender(), &payload);
        // It did open, and snow is done. Only the peer itself can have sent nonsense, and even that ends nothing.
        self.state = if finished.is_ok() { None } else { self.recipe.start().ok().map(|(state, _)| state) };
        finished
    }
}

impl Recipe {
    fn conclude(
        &self,
        state: &mut HandshakeState,
        receiver_index: u32,
        payload: &[u8; ANSWER],
    ) -> Result<Finished, Failure> {
        let (answer, suite) = match self.protocol {
            Protocol::WireGuard => (None, Suite::ChaCha20Poly1305),
            Protocol::Sealed => {
                let answer = Answer::parse(payload).map_err(|_| Failure::Payload)?;
                match answer.outcome {
                    Outcome::Accepted(suite) if suite == Suite::of(self.hello.aes, answer.aes) => (Some(answer), suite),
                    Outcome::Accepted(_) => return Err(Failure::Suite),
                    Outcome::RefusedMode | Outcome::RefusedEpoch => return Ok(Finished::Refused(answer)),
                }
            }
        };
        let [from_us, from_them] = data_keys(self.protocol, suite, state, [self.sender, receiver_index])?;
        let keys = Keys { send: from_us, receive: from_them, suite };
        Ok(Finished::Established { keys, receiver_index, answer })
    }
}

/// An initiation that opened: who asks for what, before anything was decided.
pub struct Incoming {
    protocol: Protocol,
    state: HandshakeState,
    ephemeral: Ephemeral,
    remote: [u8; 32],
    hello: Hello,
    /// The index by which the initiator knows the session.
    receiver: u32,
}

/// Opens an initiation of a network, or of [`NO_NETWORK`]. It proves that its sender once had the private key of [`Incoming::remote`] and made this message
/// with it, not that it is new.
///
/// # Errors
/// [`Failure::WrongMessage`], [`Failure::NotAuthentic`], [`Failure::LowOrder`], [`Failure::OwnKey`], [`Failure::Payload`],
/// [`Failure::Library`].
pub fn read_initiation(
    protocol: Protocol,
    identity: &Identity,
    network: &[u8; 16],
    message: &Handshake<'_>,
) -> Result<Incoming, Failure> {
    if (message.protocol(), message.step()) != (protocol, Step::Initiation) {
        return Err(Failure::WrongMessage);
    }
    let ephemeral = Ephemeral::default();
    let prologue = prologue(protocol, network, message.head());
    let name = noise_name(protocol);
    let start = Start { name, prologue: &prologue, identity: &identity.0, ephemeral: &ephemeral };
    let mut state = start.responder()?;
    let mut payload = [0; HELLO];
    state.read_message(message.noise(), &mut payload)?;
    let remote = *state.get_remote_static().and_then(<[u8]>::first_chunk).ok_or(Failure::Library)?;
    if bool::from(remote.ct_eq(identity.public())) {
        return Err(Failure::OwnKey);
    }
    let hello = match protocol {
        Protocol::Sealed => Hello::parse(&payload).map_err(|_| Failure::Payload)?,
        Protocol::WireGuard => {
            let timestamp = *payload.first_chunk::<TIMESTAMP>().ok_or(Failure::Library)?;
            Hello { timestamp: Tai64n(timestamp), ..Hello::default() }
        }
    };
    Ok(Incoming { protocol, state, ephemeral, remote, hello, receiver: message.sender() })
}

impl Incoming {
    /// The initiator's public key.
    #[must_use]
    pub fn remote(&self) -> &[u8; 32] {
        &self.remote
    }

    /// What it says; in WireGuard the timestamp only.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// The index by which the initiator knows the session.
    #[must_use]
    pub fn receiver_index(&self) -> u32 {
        self.receiver
    }

    /// The suite that is due if our CPU has AES instructions, or has not.
    #[must_use]
    pub fn suite(&self, own_aes: bool) -> Suite {
        match self.protocol {
            Protocol::Sealed => Suite::of(self.hello.aes, own_aes),
            Protocol::WireGuard => Suite::ChaCha20Poly1305,
        }
    }

    /// Answers: gives the keys, unless `answer` refuses, and the message, both of its MACs still zero. `sender` is the index
    /// by which we will know the session. WireGuard accepts, whatever `answer` says.
    ///
    /// # Errors
    /// [`Failure::Suite`] if `answer` names a suite that does not follow from what both CPUs have, [`Failure::LowOrder`], [`Failure::Library`].
    pub fn respond(
        self,
        psk: &[u8; 32],
        sender: u32,
        answer: &Answer,
        ephemeral: Zeroizing<[u8; 32]>,
    ) -> Result<(Option<Keys>, Vec<u8>), Failure> {
        if let (Protocol::Sealed, Outcome::Accepted(suite)) = (self.protocol, answer.outcome)
            && suite != Suite::of(self.hello.aes, answer.aes)
        {
            return Err(Failure::Suite);
        }
        self.write(psk, sender, answer, ephemeral)
    }

    fn write(
        mut self,
        psk: &[u8; 32],
        sender: u32,
        answer: &Answer,
        ephemeral: Zeroizing<[u8; 32]>,
    ) -> Result<(Option<Keys>, Vec<u8>), Failure> {
        self.ephemeral.put(ephemeral);
        self.state.set_psk(2, psk)?;
        let header = HandshakeHeader { protocol: self.protocol, step: Step::Response, sender, receiver: self.receiver };
        let payload = answer.emit();
        let (payload, suite) = match (self.protocol, answer.outcome) {
            (Protocol::WireGuard, _) => (&[][..], Some(Suite::ChaCha20Poly1305)),
            (Protocol::Sealed, Outcome::Accepted(suite)) => (&payload[..], Some(suite)),
            (Protocol::Sealed, Outcome::RefusedMode | Outcome::RefusedEpoch) => (&payload[..], None),
        };
        let message = write(&mut self.state, header, payload)?;
        let Some(suite) = suite else { return Ok((None, message)) };
        let indices = [self.receiver, sender];
        let [from_them, from_us] = data_keys(self.protocol, suite, &mut self.state, indices)?;
        Ok((Some(Keys { send: from_us, receive: from_them, suite }), message))
    }
}

/// What both sides must agree on before the first message; `head` is the initiation's.
fn prologue(protocol: Protocol, network: &[u8; 16], head: &[u8; 8]) -> Vec<u8> {
    match protocol {
        Protocol::Sealed => [SEALED_PROLOGUE, network, head].concat(),
        Protocol::WireGuard => WIREGUARD_PROLOGUE.to_vec(),
    }
}

fn write(state: &mut HandshakeState, header: HandshakeHeader, payload: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut noise = [0; NOISE_MAX];
    let length = state.write_message(payload, &mut noise)?;
    noise.get(..length).and_then(|noise| header.emit(noise)).ok_or(Failure::Library)
}

/// The keys for what the initiator sends and for what the responder sends; `indices` in the same order.
fn data_keys(
    protocol: Protocol,
    suite: Suite,
    state: &mut HandshakeState,
    indices: [u32; 2],
) -> Result<[Zeroizing<[u8; 32]>; 2], Failure> {
    let (initiator, responder) = state.dangerously_get_raw_split();
    let mut keys = [Zeroizing::new(initiator), Zeroizing::new(responder)];
    if protocol == Protocol::Sealed {
        let [initiator, responder] = indices.map(u32::to_le_bytes);
        let number = [suite.number()];
        let info = [SEALED_DATA, &number, &initiator, &responder];
        let salt = Salt::new(HKDF_SHA256, state.get_handshake_hash());
        for key in &mut keys {
            let secret = salt.extract(&key[..]);
            let derived = secret.expand(&info, HKDF_SHA256).map_err(|_| Failure::Library)?;
            derived.fill(&mut key[..]).map_err(|_| Failure::Library)?;
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::message::Mode;

    fn identity(seed: u8) -> Identity {
        Identity::new(&[seed; 32]).unwrap()
    }

    fn ephemeral(seed: u8) -> Zeroizing<[u8; 32]> {
        Zeroizing::new([seed; 32])
    }

    fn answer(outcome: Outcome, aes: bool) -> Answer {
        Answer { outcome, mode: Mode::Tun, aes, mtu: 1420 }
    }

    #[test]
    fn another_suite_than_the_due_one_aborts_and_leaves_the_handshake_pending() {
        let (us, them) = (identity(1), identity(2));
        let suites = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];
        for (ours, theirs) in [(true, true), (true, false), (false, true), (false, false)] {
            let hello = Hello { aes: ours, ..Hello::default() };
            let (mut pending, message) =
                initiate(Protocol::Sealed, &us, them.public(), Shared::of_file(&[0; 32]), 16, &hello, ephemeral(3))
                    .unwrap();
            let message = Handshake::parse(&message).unwrap();
            let incoming = || read_initiation(Protocol::Sealed, &them, &NO_NETWORK, &message).unwrap();
            let due = Suite::of(ours, theirs);
            for other in suites.into_iter().filter(|suite| *suite != due) {
                let other = answer(Outcome::Accepted(other), theirs);
                assert_eq!(incoming().respond(&[0; 32], 32, &other, ephemeral(4)).err(), Some(Failure::Suite));
                let (_, forbidden) = incoming().write(&[0; 32], 32, &other, ephemeral(4)).unwrap();
                for _ in 0..2 {
                    let failure = pending.finish(&Handshake::parse(&forbidden).unwrap()).err();
                    assert_eq!(failure, Some(Failure::Suite), "{ours} {theirs}");
                }
            }
            assert_eq!(incoming().suite(theirs), due);
            let (keys, response) =
                incoming().respond(&[0; 32], 48, &answer(Outcome::Accepted(due), theirs), ephemeral(5)).unwrap();
            let Ok(Finished::Established { keys: ours, receiver_index: 48, .. }) =
                pending.finish(&Handshake::parse(&response).unwrap())
            else {
                panic!("the genuine response came later and must do");
            };
            let keys = keys.unwrap();
            assert_eq!((&ours.send, ours.suite), (&keys.receive, due));
        }
    }

    #[test]
    fn an_undefined_payload_leaves_the_handshake_pending() {
        let (us, them) = (identity(1), identity(2));
        let (mut pending, message) = initiate(
            Protocol::Sealed,
            &us,
            them.public(),
            Shared::of_file(&[0; 32]),
            16,
            &Hello::default(),
            ephemeral(3),
        )
        .unwrap();
        let message = Handshake::parse(&message).unwrap();
        let mut incoming = read_initiation(Protocol::Sealed, &them, &NO_NETWORK, &message).unwrap();
        incoming.ephemeral.put(ephemeral(4));
        incoming.state.set_psk(2, &[0; 32]).unwrap();
        let header = HandshakeHeader { protocol: Protocol::Sealed, step: Step::Response, sender: 32, receiver: 16 };
        let undefined = write(&mut incoming.state, header, &[0, 2, 0, 0, 0, 0, 0, 1]).unwrap();
        assert_eq!(pending.finish(&Handshake::parse(&undefined).unwrap()).err(), Some(Failure::Payload));
        assert!(pending.state.is_some());
    }

    #[test]
    fn another_network_or_version_is_not_authentic() {
        let head =
            HandshakeHeader { protocol: Protocol::Sealed, step: Step::Initiation, sender: 16, receiver: 0 }.head();
        let (us, them) = (identity(1), identity(2));
        let (_, message) = initiate(
            Protocol::Sealed,
            &us,
            them.public(),
            Shared::of_file(&[0; 32]),
            16,
            &Hello::default(),
            ephemeral(3),
        )
        .unwrap();
        let message = Handshake::parse(&message).unwrap();
        let mut version = head;
        version[1] ^= 3;
        for (network, head, opens) in [(NO_NETWORK, head, true), ([1; 16], head, false), (NO_NETWORK, version, false)] {
            let prologue = prologue(Protocol::Sealed, &network, &head);
            let name = noise_name(Protocol::Sealed);
            let start = Start { name, prologue: &prologue, identity: &them.0, ephemeral: &Ephemeral::default() };
            let read = start.responder().unwrap().read_message(message.noise(), &mut [0; HELLO]);
            assert_eq!(read.is_ok(), opens);
        }
    }
}
