//! The controller: it holds the links to the agents, says who may do what, relays operations and
//! keeps the audit.
//!
//! - [`run`]: puts everything together; [`config`]: its configuration; [`vault`]: its keys
//! - [`listen`]: the one port; [`unproven`]: who stands before it; [`reception`]: what becomes of a
//!   connection; [`dial`]: agents that listen instead
//! - [`api`]: what it answers to operators and enrolling hosts
//! - [`links`], [`sessions`], [`presence`]: who is connected now, and is written down
//! - [`relay`]: one operation to many hosts; [`runs`]: the requests under way
//! - [`health`]: how the hosts' checks stand, and what deserves attention
//! - [`notify`]: who is told of it
//! - [`metrics`]: what a monitoring system sees
//! - [`selector`]: which hosts are meant; [`authz`]: who may; [`audit`]: what was asked for
//! - [`store`]: what must outlive it; all SQL is there

pub mod api;
pub mod audit;
pub mod authz;
pub mod config;
pub mod dial;
pub mod health;
pub mod links;
pub mod listen;
pub mod metrics;
pub mod notify;
pub mod presence;
pub mod reception;
pub mod relay;
pub mod run;
pub mod runs;
pub mod selector;
pub mod sessions;
pub mod store;
pub mod unproven;
pub mod vault;
