//! The agent: one on each host. It runs typed operations for controllers, within the host's policy.
//!
//! - [`run`]: puts everything together
//! - [`config`]: `/etc/hostler/agent.toml`; [`policy`]: what the host's owner allows
//! - [`identity`], [`enroll`]: key and certificate; [`link`]: the links to controllers
//! - [`serve`]: the gRPC server behind them; [`dispatch`]: the one way in which an operation runs
//! - [`journal`]: the durable memory of actions
//! - [`stack`]: what is on this host, which [`discover`] finds; [`checks`]: the probes that it runs by itself
//! - [`operation`]: what a probe and an action are; [`ops`]: the operations, one file each
//! - [`amount`]: time spans and sizes as they stand in sentences; [`bounds`]: from where on something is bad
//! - [`dumps`]: dumps of databases, known by their bytes
//! - [`host`]: the one door to the machine: programs, files, processes

pub mod amount;
pub mod bounds;
pub mod checks;
pub mod config;
pub mod discover;
pub mod dispatch;
pub mod dumps;
pub mod ending;
pub mod enroll;
pub mod host;
pub mod identity;
pub mod journal;
pub mod link;
pub mod operation;
pub mod ops;
mod order;
pub mod policy;
pub mod run;
pub mod serve;
pub mod stack;
pub mod state;
