//! The enrolment token: what a new host shows its controller, and by what it knows the controller.
//!
//! `hst1.ID.SECRET.AUTHORITY`: the id names the token in lists, only a hash of the secret is
//! stored, and the authority's fingerprint is what the host pins.

use std::{fmt, str::FromStr};

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::pki::Fingerprint;

/// Why a text is no token. The text itself is a secret and is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("this is no enrolment token; it has the form hst1.ID.SECRET.AUTHORITY, in one piece")]
pub struct InvalidToken;

/// A token as it is handed over.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Names it in lists.
    pub id: String,
    /// Known to whoever holds the token.
    pub secret: TokenSecret,
    /// The controller's authority.
    pub authority: Fingerprint,
}

/// The secret half of a token. It is never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret([u8; 20]);

impl TokenSecret {
    /// A secret of random bytes.
    pub fn new(rng: &mut impl rand::Rng) -> Self {
        Self(rng.random())
    }

    /// What is stored of it. The secret has 160 random bits: a plain hash cannot be searched.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// The form in which it travels.
    pub fn reveal(&self) -> String {
        BASE32_NOPAD.encode(&self.0).to_ascii_lowercase()
    }
}

impl FromStr for TokenSecret {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes());
        let bytes = bytes.map_err(|_| InvalidToken)?.try_into().map_err(|_| InvalidToken)?;
        Ok(Self(bytes))
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(..)")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Token {
    /// The whole token, for the one time that it is shown.
    pub fn reveal(&self) -> String {
        format!("hst1.{}.{}.{}", self.id, self.secret.reveal(), self.authority)
    }
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim().split('.');
        let (Some("hst1"), Some(id), Some(secret), Some(authority), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidToken);
        };
        let is_id = (1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
        if !is_id {
            return Err(InvalidToken);
        }
        let authority = Fingerprint::parse(authority).ok_or(InvalidToken)?;
        Ok(Self { id: id.to_owned(), secret: secret.parse()?, authority })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_handed_over_and_shows_no_secret_by_itself() {
        let secret = TokenSecret::new(&mut SmallRng::seed_from_u64(1));
        let token = Token { id: "a1b2".into(), secret, authority: Fingerprint::of(b"ca") };
        let text = token.reveal();
        assert_eq!(format!(" {text}\n").parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(&token.secret.reveal()));
        assert!(text[..text.len() - 1].parse::<Token>().is_err(), "a token cut short");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(hst1\\.)?[a-z0-9.]{0,120}|\\PC*") {
            let _ = text.parse::<Token>();
        }
    }
}
