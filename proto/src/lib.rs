//! The contract between hosts, controllers and people: what operations there are, what they take
//! and answer, and how they fail. It does no I/O and needs no runtime.
//!
//! - [`ops`] and [`wire`]: the messages generated from `hostler/**/*.proto`
//! - [`operation`]: one Rust type per operation, and [`for_each_operation!`]
//! - [`catalogue`]: the operations as data, read from the embedded [`descriptors`] at run time
//! - [`args`]: parameters as people type them, checked against the catalogue
//! - [`failure`]: the closed table of error codes

pub mod args;
pub mod catalogue;
pub mod descriptors;
pub mod failure;
pub mod finding;
pub mod name;
pub mod operation;
mod report;

/// Messages that all operations share: events, outcomes, failures.
#[allow(missing_docs, clippy::doc_markdown, clippy::unwrap_used)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/hostler.v1.rs"));
}

/// Requests and results of the operations.
#[allow(missing_docs)]
pub mod ops {
    include!(concat!(env!("OUT_DIR"), "/hostler.ops.v1.rs"));
}
