//! Git checkouts.

mod status;
