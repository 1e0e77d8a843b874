//! What both ends need beside the contract. It knows nothing of operations, hosts' insides or the
//! store.
//!
//! - [`clock`]: time and ids, which come from outside so that tests need no sleep
//! - [`backoff`]: how long to wait before trying again
//! - [`identity`]: who a peer is: the names in certificates
//! - [`pki`]: keys, certificate requests, and the certificates that an authority signs
//! - [`tls`]: mutual TLS 1.3, and what a handshake proves
//! - [`link`]: one connection between agent and controller with the HTTP/2 roles swapped

pub mod backoff;
pub mod clock;
pub mod identity;
pub mod link;
pub mod pki;
pub mod tls;
