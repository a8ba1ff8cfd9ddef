//! X25519 keys and preshared keys as text: 32 bytes in base64, the same text that `wg genkey`, `wg pubkey` and `wg genpsk` print.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use aws_lc_rs::{agreement, constant_time, rand};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// The length of every key, in bytes (RFC 7748, section 5; a preshared key has as many).
pub const LENGTH: usize = 32;

/// Characters of a key in base64, padding included.
pub const TEXT_LENGTH: usize = 44;

/// Why a text or file is not a key. Says nothing of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a key: expected 32 bytes in base64 (44 characters, ending in '='), as `adit keygen` prints them")]
pub struct NotAKey;

/// Why a key file is not used: one sentence with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is none. It is not made silently: a new key would cut off every peer.
    #[error("the key file {} does not exist: make one with `umask 077 && adit keygen > {}`", .0.display(), .0.display())]
    Missing(PathBuf),
    /// There is no preshared key, which both ends must have.
    #[error(
        "the preshared key file {} does not exist: make one with `umask 077 && adit keygen --preshared > {}`, and copy \
         it to the peer", .0.display(), .0.display()
    )]
    MissingPreshared(PathBuf),
    /// The kernel said no.
    #[error("the key file {} cannot be read: {}", .0.display(), .1)]
    Unreadable(PathBuf, io::Error),
    /// A directory, device or pipe.
    #[error("the key file {} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Its group or everybody has rights to it: permission bits.
    #[error("the key file {} is open to other users (mode {:04o}): run `chmod 600 {}`", .0.display(), .1, .0.display())]
    Open(PathBuf, u32),
    /// Somebody else could exchange it: user id.
    #[error("the key file {} belongs to user {}: run `chown root {}`, or start adit as that user", .0.display(), .1, .0.display())]
    Owner(PathBuf, u32),
    /// Not 44 characters of base64.
    #[error("the key file {} does not hold a private key: it must be the one line that `adit keygen` prints", .0.display())]
    Content(PathBuf),
    /// Not 44 characters of base64, or all zeros, which is how protocols say "none".
    #[error(
        "the key file {} does not hold a preshared key: it must be one line of base64 with 32 random bytes, as `wg genpsk` \
         prints it", .0.display()
    )]
    PresharedContent(PathBuf),
}

/// A private key. It cannot be compared, or printed by accident; clones share one copy in memory, which is erased when the last
/// of them is dropped.
#[derive(Clone)]
pub struct PrivateKey {
    bytes: Arc<Zeroizing<[u8; LENGTH]>>,
    public: PublicKey,
}

impl PrivateKey {
    /// The key of these bytes.
    ///
    /// # Errors
    /// All zeros is no key: it is what an empty disk or a failed generator gives.
    pub fn from_bytes(bytes: Zeroizing<[u8; LENGTH]>) -> Result<Self, NotAKey> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(NotAKey);
        }
        let key = agreement::PrivateKey::from_private_key(&agreement::X25519, bytes.as_ref()).map_err(|_| NotAKey)?;
        let public = key.compute_public_key().map_err(|_| NotAKey)?;
        let public = PublicKey(public.as_ref().try_into().map_err(|_| NotAKey)?);
        Ok(Self { bytes: Arc::new(bytes), public })
    }

    /// A new key, clamped as RFC 7748 (section 5) says, so that its text is the same as `wg genkey` would print.
    ///
    /// # Errors
    /// The random generator failed.
    pub fn generate() -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        rand::fill(bytes.as_mut()).map_err(|_| io::Error::other("the random generator failed"))?;
        clamp(&mut bytes);
        Self::from_bytes(bytes).map_err(io::Error::other)
    }

    /// Reads a key from a stream: one line of base64, white space around it allowed.
    ///
    /// # Errors
    /// What the stream said, or [`io::ErrorKind::InvalidData`] with [`NotAKey`].
    pub fn read(stream: impl Read) -> io::Result<Self> {
        Self::from_bytes(read_line(stream)?).map_err(invalid)
    }

    /// Reads a key file. It may be reached by a symbolic link (as secret stores place them), but the file itself must
    /// belong to this process's user or root, and nobody else may have any right to it.
    ///
    /// # Errors
    /// See [`KeyFileError`].
    pub fn read_file(path: &Path) -> Result<Self, KeyFileError> {
        let bytes = read_secret(path, KeyFileError::Missing, KeyFileError::Content)?;
        Self::from_bytes(bytes).map_err(|_| KeyFileError::Content(path.into()))
    }

    /// Writes the key as its line of text.
    ///
    /// # Errors
    /// What the stream said.
    pub fn write(&self, stream: impl Write) -> io::Result<()> {
        write_secret(&self.bytes, stream)
    }

    /// The key's bytes, for key agreement.
    pub fn as_bytes(&self) -> &[u8; LENGTH] {
        &self.bytes
    }

    /// Whether a preshared key has the same bytes.
    pub fn is_also(&self, key: &PresharedKey) -> bool {
        constant_time::verify_slices_are_equal(self.as_bytes(), key.as_bytes()).is_ok()
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        self.public
    }
}

/// A secret that two peers share beside their keys. It cannot be printed by accident; clones share one copy in memory, which is
/// erased when the last of them is dropped.
#[derive(Clone)]
pub struct PresharedKey(Arc<Zeroizing<[u8; LENGTH]>>);

impl PresharedKey {
    /// The secret of these bytes.
    ///
    /// # Errors
    /// All zeros is none: handshakes are computed with it where there is no preshared key.
    pub fn from_bytes(bytes: Zeroizing<[u8; LENGTH]>) -> Result<Self, NotAKey> {
        if bytes.iter().all(|byte| *byte == 0) { Err(NotAKey) } else { Ok(Self(Arc::new(bytes))) }
    }

    /// A new secret.
    ///
    /// # Errors
    /// The random generator failed.
    pub fn generate() -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        rand::fill(bytes.as_mut()).map_err(|_| io::Error::other("the random generator failed"))?;
        Self::from_bytes(bytes).map_err(io::Error::other)
    }

    /// Writes the secret as its line of text.
    ///
    /// # Errors
    /// What the stream said.
    pub fn write(&self, stream: impl Write) -> io::Result<()> {
        write_secret(&self.0, stream)
    }

    /// Reads a file with one line of base64, of which the rules are those of [`PrivateKey::read_file`].
    ///
    /// # Errors
    /// See [`KeyFileError`].
    pub fn read_file(path: &Path) -> Result<Self, KeyFileError> {
        let bytes = read_secret(path, KeyFileError::MissingPreshared, KeyFileError::PresharedContent)?;
        Self::from_bytes(bytes).map_err(|_| KeyFileError::PresharedContent(path.into()))
    }

    /// The secret's bytes, for a handshake.
    pub fn as_bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

impl PartialEq for PresharedKey {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(self.as_bytes(), other.as_bytes()).is_ok()
    }
}

impl Eq for PresharedKey {}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}

/// Writes 32 bytes as a line of base64, without a buffer that would keep a copy.
fn write_secret(bytes: &[u8; LENGTH], mut stream: impl Write) -> io::Result<()> {
    let mut line = Zeroizing::new([b'\n'; TEXT_LENGTH + 1]);
    let (text, _) = line.split_at_mut(TEXT_LENGTH);
    STANDARD.encode_slice(bytes, text).map_err(io::Error::other)?;
    stream.write_all(line.as_ref())?;
    stream.flush()
}

/// A public key: who a peer is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; LENGTH]);

impl PublicKey {
    /// The key of these bytes.
    pub fn from_bytes(bytes: [u8; LENGTH]) -> Self {
        Self(bytes)
    }

    /// The bytes, as they travel in a handshake.
    pub fn as_bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let mut bytes = [0; LENGTH];
        decode(text.as_bytes(), &mut bytes)?;
        if has_secret(&bytes) { Ok(Self(bytes)) } else { Err(NotAKey) }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Sets the bits of a private key that are the same in all of them (RFC 7748, section 5).
pub fn clamp(bytes: &mut [u8; LENGTH]) {
    bytes[0] &= 0b1111_1000;
    bytes[LENGTH - 1] = (bytes[LENGTH - 1] & 0b0111_1111) | 0b0100_0000;
}

/// Whether an agreement with this public key has a secret. It has none with the few points of low order (RFC 7748, section 6.1),
/// whatever the private key, and no private key has one of them as its public half.
fn has_secret(public: &[u8; LENGTH]) -> bool {
    // Any private key shows it.
    let any = agreement::PrivateKey::from_private_key(&agreement::X25519, &[1; LENGTH]);
    let public = agreement::UnparsedPublicKey::new(&agreement::X25519, public);
    any.is_ok_and(|any| {
        agreement::agree(&any, public, NotAKey, |secret| {
            if secret.iter().all(|byte| *byte == 0) { Err(NotAKey) } else { Ok(()) }
        })
        .is_ok()
    })
}

/// The 32 bytes of a secret as base64 has them.
///
/// # Errors
/// Anything but 44 characters of base64.
pub fn secret_from_text(text: &str) -> Result<Zeroizing<[u8; LENGTH]>, NotAKey> {
    let mut bytes = Zeroizing::new([0; LENGTH]);
    decode(text.as_bytes(), &mut bytes)?;
    Ok(bytes)
}

/// The error of a stream that holds no key.
fn invalid(fault: NotAKey) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault)
}

/// Reads one line of base64 with the bytes of a key, white space around it allowed.
fn read_line(mut stream: impl Read) -> io::Result<Zeroizing<[u8; LENGTH]>> {
    // A fixed buffer: a growing one would leave pieces of the key behind.
    let mut text = Zeroizing::new([0; 2 * TEXT_LENGTH]);
    let mut length = 0;
    while let Some(room) = text.get_mut(length..).filter(|room| !room.is_empty()) {
        match stream.read(room) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if length == text.len() {
        return Err(invalid(NotAKey));
    }
    let text = text.get(..length).unwrap_or_default().trim_ascii();
    let mut bytes = Zeroizing::new([0; LENGTH]);
    decode(text, &mut bytes).map_err(invalid)?;
    Ok(bytes)
}

/// Reads the secret of a file that nobody else can read. `missing` and `content` say what it should have been.
fn read_secret(
    path: &Path,
    missing: fn(PathBuf) -> KeyFileError,
    content: fn(PathBuf) -> KeyFileError,
) -> Result<Zeroizing<[u8; LENGTH]>, KeyFileError> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => missing(path.into()),
        io::ErrorKind::InvalidData => content(path.into()),
        _ => KeyFileError::Unreadable(path.into(), error),
    };
    // Without O_NONBLOCK, opening a pipe would wait for a writer. All checks ask the open file: a path may change.
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(KeyFileError::NotAFile(path.into()));
    }
    check_rights(path, metadata.mode(), metadata.uid(), own_user().map_err(unreadable)?)?;
    read_line(file).map_err(unreadable)
}

/// Whether nobody but `own` and root could read a file of this mode and owner, or put another in its place.
fn check_rights(path: &Path, mode: u32, owner: u32, own: u32) -> Result<(), KeyFileError> {
    if mode & 0o077 != 0 {
        Err(KeyFileError::Open(path.into(), mode & 0o7777))
    } else if owner != 0 && owner != own {
        Err(KeyFileError::Owner(path.into(), owner))
    } else {
        Ok(())
    }
}

/// The user that this process acts as.
fn own_user() -> io::Result<u32> {
    Ok(fs::metadata("/proc/self")?.uid())
}

/// Decodes exactly one key, without an allocation that would keep a copy.
fn decode(text: &[u8], key: &mut [u8; LENGTH]) -> Result<(), NotAKey> {
    if text.len() != TEXT_LENGTH {
        return Err(NotAKey);
    }
    // base64 estimates room by groups of four characters: one byte more than a key.
    let mut room = Zeroizing::new([0; LENGTH + 1]);
    let length = STANDARD.decode_slice(text, room.as_mut()).map_err(|_| NotAKey)?;
    if length != LENGTH {
        return Err(NotAKey);
    }
    key.copy_from_slice(room.get(..LENGTH).ok_or(NotAKey)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// RFC 7748, section 6.1: Alice's keys.
    const PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    const PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    fn private(text: &str) -> io::Result<PrivateKey> {
        PrivateKey::read(text.as_bytes())
    }

    fn text_of(key: &PrivateKey) -> String {
        let mut text = Vec::new();
        key.write(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_published_vector() {
        let key = private(PRIVATE).unwrap();
        assert_eq!(key.public_key().to_string(), PUBLIC);
        assert_eq!(text_of(&key), format!("{PRIVATE}\n"));
        assert_eq!(PUBLIC.parse::<PublicKey>().unwrap(), key.public_key());
    }

    #[test]
    fn generated_keys_are_clamped_and_differ() {
        let keys: Vec<PrivateKey> = (0..64).map(|_| PrivateKey::generate().unwrap()).collect();
        for key in &keys {
            assert_eq!(key.as_bytes()[0] & 7, 0);
            assert_eq!(key.as_bytes()[31] & 0xc0, 0x40);
            assert_eq!(private(&text_of(key)).unwrap().public_key(), key.public_key());
        }
        let distinct: std::collections::HashSet<PublicKey> = keys.iter().map(PrivateKey::public_key).collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn white_space_around_a_key_is_allowed_and_nothing_else() {
        for good in [format!("  {PRIVATE}\r\n"), format!("\n{PRIVATE}\n\n"), PRIVATE.to_owned()] {
            assert!(private(&good).is_ok(), "{good:?}");
        }
        let zeros = STANDARD.encode([0; LENGTH]);
        let long = PRIVATE.repeat(3);
        let padded = format!("{PRIVATE}{}", " ".repeat(100));
        for bad in ["", "\n", "secret", &PRIVATE[1..], &PRIVATE[..43], &format!("{PRIVATE}x"), &zeros, &long, &padded] {
            assert_eq!(private(bad).err().map(|error| error.kind()), Some(io::ErrorKind::InvalidData), "{bad:?}");
        }
        assert_eq!("AAAA".parse::<PublicKey>(), Err(NotAKey));
        assert_eq!(zeros.parse::<PublicKey>(), Err(NotAKey));
    }

    #[test]
    fn key_files_are_used_only_if_nobody_else_can_read_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(matches!(PrivateKey::read_file(&path), Err(KeyFileError::Missing(_))));
        assert!(matches!(PrivateKey::read_file(directory.path()), Err(KeyFileError::NotAFile(_))));

        fs::write(&path, PRIVATE).unwrap();
        for refused in [0o640, 0o604, 0o660, 0o620, 0o601] {
            mode(refused);
            let Err(error) = PrivateKey::read_file(&path) else { panic!("mode {refused:o} was accepted") };
            let sentence = error.to_string();
            assert!(sentence.contains("chmod 600") && sentence.contains(&format!("{refused:04o}")), "{sentence}");
        }
        for accepted in [0o600, 0o400] {
            mode(accepted);
            assert!(PrivateKey::read_file(&path).is_ok(), "{accepted:o}");
        }
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(PrivateKey::read_file(&link).is_ok());
        mode(0o644);
        assert!(matches!(PrivateKey::read_file(&link), Err(KeyFileError::Open(_, 0o644))));

        mode(0o600);
        fs::write(&path, "not a key").unwrap();
        let Err(error) = PrivateKey::read_file(&path) else { panic!("accepted what is no key") };
        assert!(matches!(error, KeyFileError::Content(_)));
        assert!(!error.to_string().contains("not a key\n"));
    }

    #[test]
    fn preshared_keys_are_kept_like_private_ones() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let fault = |path: &Path| PresharedKey::read_file(path).unwrap_err().to_string();
        let sentence = fault(&path);
        assert!(sentence.contains("does not exist") && sentence.contains("umask 077"), "{sentence}");
        // Neither is clamped: any 32 bytes but zeros are a preshared key.
        fs::write(&path, format!("{}\n", STANDARD.encode([0xff; LENGTH]))).unwrap();
        mode(0o640);
        assert!(fault(&path).contains("chmod 600"));
        mode(0o600);
        let key = PresharedKey::read_file(&path).unwrap();
        assert_eq!(key.as_bytes(), &[0xff; LENGTH]);
        assert_eq!(format!("{key:?}"), "PresharedKey(..)");
        assert_eq!(key, key.clone());
        assert_ne!(key, PresharedKey::from_bytes(Zeroizing::new([1; LENGTH])).unwrap());
        for bad in [STANDARD.encode([0; LENGTH]), String::new(), "secret".into(), STANDARD.encode([1; 31])] {
            fs::write(&path, &bad).unwrap();
            let sentence = fault(&path);
            assert!(sentence.contains("does not hold a preshared key"), "{sentence}");
            assert!(bad.is_empty() || !sentence.contains(&bad), "{sentence}");
        }
    }

    #[test]
    fn public_keys_without_a_secret_are_none() {
        // Points of order 1, 2, 4 and 8, and some that encode them again (RFC 7748, section 6.1).
        let mut order_2 = [0xff; LENGTH];
        (order_2[0], order_2[31]) = (0xec, 0x7f);
        let mut one_again = order_2;
        one_again[0] = 0xee;
        let mut one = [0; LENGTH];
        one[0] = 1;
        let order_8 = [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
            0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ];
        for point in [[0; LENGTH], one, order_2, one_again, order_8] {
            assert_eq!(STANDARD.encode(point).parse::<PublicKey>(), Err(NotAKey), "{point:?}");
        }
    }

    #[test]
    fn key_files_belong_to_us_or_root() {
        let path = Path::new("key");
        assert!(check_rights(path, 0o100_600, 1000, 1000).is_ok());
        assert!(check_rights(path, 0o100_600, 0, 1000).is_ok());
        for own in [0, 1001] {
            let error = check_rights(path, 0o100_600, 1000, own).unwrap_err().to_string();
            assert!(error.contains("belongs to user 1000") && error.contains("chown"), "{error}");
        }
    }

    #[test]
    fn sockets_and_devices_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(PrivateKey::read_file(&path), Err(KeyFileError::Unreadable(..))));
        drop(socket);
        assert!(matches!(PrivateKey::read_file(Path::new("/dev/null")), Err(KeyFileError::NotAFile(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_key_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = PrivateKey::read(&bytes[..]);
            let _ = String::from_utf8_lossy(&bytes).parse::<PublicKey>();
        }

        #[test]
        fn public_keys_survive_their_text(bytes: [u8; LENGTH]) {
            prop_assume!(has_secret(&bytes));
            let key = PublicKey::from_bytes(bytes);
            prop_assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
        }
    }
}
