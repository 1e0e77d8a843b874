//! Tells people and other systems of hard states that changed. A notice is written down with the
//! change, and goes when it was delivered: it survives the controller, and may come twice.
//!
//! - [`target`]: who is told, of what, and when not; [`message`]: in which words
//! - [`postman`]: brings a target its notices; [`cause`]: what is told with something else
//! - [`send`]: webhook, Slack, SMTP, Alertmanager

mod cause;
pub mod message;
mod postman;
pub mod send;
pub mod target;

use std::sync::Arc;

use hostler_core::clock::Clock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::{postman::Postman, send::Sender, target::Target};
use crate::{health::Fleet, store::Store};

/// Delivers notices.
#[derive(Debug, Clone)]
pub struct Notifier {
    /// Who is told.
    pub targets: Vec<Target>,
    /// Where notices are.
    pub store: Store,
    /// How checks stand.
    pub health: Fleet,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How they are sent.
    pub sender: Sender,
}

impl Notifier {
    /// Delivers until `stop`. Each target has a postman of its own, so that none waits for another.
    pub async fn run(self, stop: CancellationToken) {
        let names: Vec<&str> = self.targets.iter().map(|t| t.name.as_str()).collect();
        if let Err(error) = self.store.forget_targets_but(&names).await {
            tracing::error!(%error, "notices for targets that there are no more were not forgotten");
        }
        let mut postmen = JoinSet::new();
        for target in &self.targets {
            let postman = Postman::new(target.clone(), self.clone());
            postmen.spawn(postman.run(stop.clone()));
        }
        while postmen.join_next().await.is_some() {}
    }
}
