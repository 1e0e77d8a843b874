//! Git checkouts.

mod checkout;
mod status;
