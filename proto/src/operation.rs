//! One type per operation, generated from the descriptors.

use prost::{Message, Name};

/// An operation of the catalogue, as the compiler sees it.
pub trait Operation: Send + Sync + 'static {
    /// What it takes.
    type Request: Message + Name + Default;
    /// What its outcome carries.
    type Result: Message + Name + Default;
    /// How people call it: `domain.verb`.
    const NAME: &'static str;
    /// Path of the rpc: `/hostler.ops.v1.Host/Facts`.
    const PATH: &'static str;
}

include!(concat!(env!("OUT_DIR"), "/operations.rs"));
