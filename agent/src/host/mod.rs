//! The one door to the machine. Operations reach files, programs and the clock through it, and it
//! holds them to the host's policy.

pub mod backlog;
pub mod connections;
pub mod exec;
pub mod files;
pub mod lingering;
pub mod logs;
pub mod mounts;
pub mod owner;
pub mod past;
pub mod place;
pub mod postgres;
pub mod processes;
pub mod query;
pub mod redis;
pub mod sock_diag;
mod why;

use std::sync::Arc;

use hostler_core::clock::Clock;
use hostler_proto::wire::{ErrorCode, Failure};

use self::lingering::Lingering;
use crate::{policy::Policy, stack::Stack};

/// The machine, as far as the policy lets an operation see it.
#[derive(Debug)]
pub struct Host {
    /// What the host's owner allows.
    pub policy: Policy,
    /// What is on it.
    pub stack: Stack,
    /// Wall-clock time and fresh ids.
    pub clock: Arc<dyn Clock>,
}

#[cfg(test)]
impl Host {
    /// A host that shows the files beneath a directory.
    pub(crate) fn showing(directory: &std::path::Path) -> Self {
        Self {
            policy: Policy { logs: vec![directory.to_owned()], ..Policy::default() },
            stack: Stack::default(),
            clock: Arc::new(hostler_core::clock::SystemClock),
        }
    }
}

/// Runs what blocks where blocking is allowed.
///
/// # Errors
/// What it says, or that it ended by a defect.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let under_way = Lingering::here(|| "a call to the kernel".to_owned());
    let work = move || {
        let said = work();
        drop(under_way);
        said
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| {
        Err(Failure::new(ErrorCode::Internal, "reading the machine ended by a defect of the agent"))
    })
}

/// A file of /proc or /sys as text.
///
/// # Errors
/// When it cannot be read.
pub fn kernel(path: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| {
        Failure::new(ErrorCode::HostFault, format!("{path} cannot be read: {e}"))
            .hint("is /proc mounted for the agent?")
    })
}
