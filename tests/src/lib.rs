//! What tests on the real thing stand on: fleets of the real binaries, booted hosts, real servers.
//!
//! - [`disk`]: a disk that is soon full
//! - [`fleet`]: a controller, agents and hostlerctl with ports and directories of their own
//! - [`lab`]: hosts that boot systemd on this machine; see `tests/lab`
//! - [`process`]: starting, stopping and killing what a test started, and waiting for it
//! - [`servers`]: Redis, Valkey and RabbitMQ with ports and directories of their own
//! - [`terminal`]: a program at a terminal, with somebody who types

pub mod disk;
pub mod fleet;
pub mod lab;
pub mod process;
pub mod servers;
pub mod terminal;
