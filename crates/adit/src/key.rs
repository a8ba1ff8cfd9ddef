//! X25519 keys as text: 32 bytes in base64, the same text that `wg genkey` and `wg pubkey` print.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use aws_lc_rs::{agreement, rand};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// The length of either key, in bytes (RFC 7748, section 5).
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
}

/// A private key. It is erased when dropped and cannot be copied, compared, or printed by accident.
pub struct PrivateKey {
    bytes: Zeroizing<[u8; LENGTH]>,
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
        Ok(Self { bytes, public })
    }

    /// A new key, clamped as RFC 7748 (section 5) says, so that its text is the same as `wg genkey` would print.
    ///
    /// # Errors
    /// The random generator failed.
    pub fn generate() -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        rand::fill(bytes.as_mut()).map_err(|_| io::Error::other("the random generator failed"))?;
        bytes[0] &= 0b1111_1000;
        bytes[LENGTH - 1] = (bytes[LENGTH - 1] & 0b0111_1111) | 0b0100_0000;
        Self::from_bytes(bytes).map_err(io::Error::other)
    }

    /// Reads a key from a stream: one line of base64, white space around it allowed.
    ///
    /// # Errors
    /// What the stream said, or [`io::ErrorKind::InvalidData`] with [`NotAKey`].
    pub fn read(mut stream: impl Read) -> io::Result<Self> {
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
        let not_a_key = |_| io::Error::new(io::ErrorKind::InvalidData, NotAKey);
        if length == text.len() {
            return Err(not_a_key(NotAKey));
        }
        let text = text.get(..length).unwrap_or_default().trim_ascii();
        let mut bytes = Zeroizing::new([0; LENGTH]);
        decode(text, &mut bytes).map_err(not_a_key)?;
        Self::from_bytes(bytes).map_err(not_a_key)
    }

    /// Reads a key file. It may be reached by a symbolic link (as secret stores place them), but the file itself must
    /// belong to this process's user or root, and nobody else may have any right to it.
    ///
    /// # Errors
    /// See [`KeyFileError`].
    pub fn read_file(path: &Path) -> Result<Self, KeyFileError> {
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => KeyFileError::Missing(path.into()),
            io::ErrorKind::InvalidData => KeyFileError::Content(path.into()),
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
        Self::read(file).map_err(unreadable)
    }

    /// Writes the key as its line of text.
    ///
    /// # Errors
    /// What the stream said.
    pub fn write(&self, mut stream: impl Write) -> io::Result<()> {
        let mut line = Zeroizing::new([b'\n'; TEXT_LENGTH + 1]);
        let (text, _) = line.split_at_mut(TEXT_LENGTH);
        STANDARD.encode_slice(self.bytes.as_ref(), text).map_err(io::Error::other)?;
        stream.write_all(line.as_ref())?;
        stream.flush()
    }

    /// The key's bytes, for key agreement.
    pub fn as_bytes(&self) -> &[u8; LENGTH] {
        &self.bytes
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        self.public
    }
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
        // No private key has this public half, and an agreement with it has no secret.
        if bytes == [0; LENGTH] { Err(NotAKey) } else { Ok(Self(bytes)) }
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
            prop_assume!(bytes != [0; LENGTH]);
            let key = PublicKey::from_bytes(bytes);
            prop_assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
        }
    }
}
