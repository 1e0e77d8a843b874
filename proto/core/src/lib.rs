//! What both ends need beside the contract. It knows nothing of operations, hosts' insides or the
//! store.
//!
//! - [`clock`]: time and ids, which come from outside so that tests need no sleep
//! - [`backoff`]: how long to wait before trying again
//! - [`call`]: what travels with a call of an operation
//! - [`config`]: configuration files that are read strictly
//! - [`dial`]: a connection whose other end proves who it is
//! - [`durable`]: files that are whole at any moment
//! - [`identity`]: who a peer is: the names in certificates
//! - [`pki`]: keys, certificate requests, and the certificates that an authority signs
//! - [`tls`]: mutual TLS 1.3, and what a handshake proves
//! - [`link`]: one connection between agent and controller with the HTTP/2 roles swapped
//! - [`program`]: what the daemons share as programs
//! - [`telemetry`]: logs, and traces over OTLP
//! - [`token`]: the enrolment token
//! - [`trend`]: when a figure reaches its end

pub mod backoff;
pub mod call;
pub mod clock;
pub mod config;
pub mod dial;
pub mod durable;
pub mod identity;
pub mod link;
pub mod pki;
pub mod program;
pub mod telemetry;
pub mod tls;
pub mod token;
pub mod trend;
