//! Writes down which hosts are linked. Changes are committed in groups: after a restart thousands
//! of agents come back within seconds, and no link waits for the disk.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::store::{Change, Store};

/// Changes that wait to be written. Behind them links wait.
const WAITING: usize = 1024;

/// Wait before changes that could not be written are tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The way to tell of a change. A clone is the same.
#[derive(Debug, Clone)]
pub struct Presence(mpsc::Sender<Change>);

impl Presence {
    /// Begins to write to a store; ends when the last clone is gone.
    pub fn start(store: Store) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(write(store, receiver));
        Self(sender)
    }

    /// Tells of a change. Changes of one host are written in the order in which they are told.
    pub async fn tell(&self, change: Change) {
        if self.0.send(change).await.is_err() {
            tracing::error!("a change of a link was not written: the controller is stopping");
        }
    }
}

async fn write(store: Store, mut changes: mpsc::Receiver<Change>) {
    let mut group = Vec::with_capacity(WAITING);
    while changes.recv_many(&mut group, WAITING).await > 0 {
        // Again until it is done: a host whose loss was not written down would seem to be up for ever.
        while let Err(error) = store.change_connections(&group).await {
            tracing::error!(%error, changes = group.len(), "changes of links could not be stored");
            tokio::time::sleep(AGAIN).await;
        }
        group.clear();
    }
}
