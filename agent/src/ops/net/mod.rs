//! Sockets: who listens where.

mod listeners;
mod port_owner;
mod sockets;

pub(crate) use sockets::listening;
