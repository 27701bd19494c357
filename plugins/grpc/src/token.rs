//! The job token: the secret that all ranks of a job share, and by which they know each other.
//!
//! It comes from the environment or from a file, never from the configuration itself, and only a key derived from it is
//! kept. Nothing here prints it.

use hmac::{Hmac, KeyInit, Mac};
use mdt_plugin_api::{Bootstrap, Error, Result};
use sha2::Sha256;

use crate::private_file;

/// The variable that the host has it from.
const VARIABLE: &str = "MDT_JOB_TOKEN";

/// The fewest characters that hold 128 random bits, when they are hexadecimal digits.
const SHORTEST: usize = 32;

/// What to do about a token that is missing or cannot be used.
const MAKE_ONE: &str = "make one with `export MDT_JOB_TOKEN=$(openssl rand -hex 32)` and set the same on every rank, or \
                        keep it in a file that only you can read and name that with `comm.token_file`; `mdt-host \
                        launch` makes its own";

/// The key of proofs. It has no `Debug`, so that it cannot be printed.
#[derive(Clone)]
pub(crate) struct Token(Hmac<Sha256>);

impl Token {
    /// The token in `file`, else the one that the host was given.
    ///
    /// # Errors
    /// There is none, it is too short, or others can read the file.
    pub(crate) fn load(file: Option<&str>, bootstrap: &Bootstrap) -> Result<Self> {
        let (text, place) = match (file, bootstrap.values.get("token")) {
            (Some(path), _) => (private_file::read("comm.token_file", path, MAKE_ONE)?, "comm.token_file"),
            (None, Some(token)) => (token.clone().into_bytes(), VARIABLE),
            (None, None) => {
                let message = "the ranks of a job need a job token, and this rank has none";
                return Err(Error::config(message).with("key", "comm.token_file").help(MAKE_ONE));
            }
        };
        Self::new(text.trim_ascii()).ok_or_else(|| {
            Error::config(format!("the job token in {place} has fewer than {SHORTEST} characters")).help(MAKE_ONE)
        })
    }

    /// A token that no other process knows, for a rank that is alone.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub(crate) fn unshared() -> Result<Self> {
        let secret = random::<SHORTEST>().map_err(|error| Error::other("no job token can be made").caused_by(error))?;
        Self::new(&secret).ok_or_else(|| Error::other("no job token can be made"))
    }

    fn new(text: &[u8]) -> Option<Self> {
        let key = Hmac::new_from_slice(text).ok()?;
        (text.len() >= SHORTEST).then_some(Self(key))
    }

    /// Whether a text is the token. The comparison takes constant time.
    pub(crate) fn is(&self, text: &str) -> bool {
        let Some(shown) = Self::new(text.as_bytes()) else { return false };
        let mac = |token: &Self| token.mac().chain_update(b"the same token");
        mac(self).verify(&mac(&shown).finalize().into_bytes()).is_ok()
    }

    /// Begins an HMAC-SHA256 with this key.
    pub(crate) fn mac(&self) -> Hmac<Sha256> {
        self.0.clone()
    }
}

/// Random bytes of the operating system.
///
/// # Errors
/// The system gives none.
pub(crate) fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes)
}
