//! Writes down how checks stand and what changed. In groups, like links: no agent waits for the
//! disk, and behind a full queue they do.

use std::time::Duration;

use hostler_proto::{
    name::HostName,
    wire::{CheckState, Finding, Status, Turn},
};
use tokio::sync::mpsc;

use super::Left;
use crate::store::Store;

/// News that wait to be written.
const WAITING: usize = 256;
/// Wait before news that could not be written are tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What is to be written down of a host.
#[derive(Debug, Clone)]
pub struct News {
    /// The host.
    pub host: HostName,
    /// The agent's memory from which the turns are.
    pub memory: String,
    /// The last of them.
    pub last_turn: u64,
    /// When it was told.
    pub heard_us: i64,
    /// Whether its agent said that it is being stopped.
    pub left: Left,
    /// How all its checks stand.
    pub states: Vec<CheckState>,
    /// Hard states that changed, and what began to flap or no longer does.
    pub turns: Vec<Turn>,
    /// Checks whose turns are for history alone: people are told of their cause.
    pub untold: Vec<String>,
    /// Checks that there were.
    pub gone: Vec<String>,
}

/// A state as it was told, without what is of no use when it is old.
pub(super) fn plain(mut state: CheckState, (hard, flapping): (Status, bool)) -> CheckState {
    let bare = |f: Finding| Finding { why: String::new(), ..f };
    state.findings = state.findings.into_iter().take(1).map(bare).collect();
    CheckState { hard: hard.into(), flapping, figures: Vec::new(), ..state }
}

/// The way to tell. A clone is the same.
#[derive(Debug, Clone)]
pub struct Recorder(mpsc::Sender<News>);

impl Recorder {
    /// Begins to write to a store; ends when the last clone is gone.
    pub fn start(store: Store) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(write(store, receiver));
        Self(sender)
    }

    /// Tells. What is told of one host is written in its order.
    pub async fn tell(&self, news: News) {
        if self.0.send(news).await.is_err() {
            tracing::error!("health was not written down: the controller is stopping");
        }
    }
}

/// Writes until nobody tells any more.
pub(crate) async fn write(store: Store, mut news: mpsc::Receiver<News>) {
    let mut group = Vec::with_capacity(WAITING);
    while news.recv_many(&mut group, WAITING).await > 0 {
        // Again until it is done: the agent will not tell it again.
        while let Err(error) = store.record_health(&group).await {
            tracing::error!(%error, hosts = group.len(), "health could not be stored");
            if error.is_of_content() {
                write_singly(&store, &mut group).await;
                if group.is_empty() {
                    break;
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
        group.clear();
    }
}

/// Writes news one by one, and takes out those that are written or never will be: what one host tells
/// does not keep that of others from being written. After one that has to wait all others do: of what
/// one host tells the newer is written last.
async fn write_singly(store: &Store, group: &mut Vec<News>) {
    let mut rest = Vec::new();
    for news in group.drain(..) {
        if !rest.is_empty() {
            rest.push(news);
            continue;
        }
        match store.record_health(std::slice::from_ref(&news)).await {
            Ok(()) => {}
            Err(error) if error.is_of_content() => {
                tracing::error!(host = %news.host, %error, "what this host tells cannot be stored");
            }
            Err(_) => rest.push(news),
        }
    }
    *group = rest;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_host_tells_later_is_not_written_before_what_has_to_wait() {
        let dir = tempfile::tempdir().expect("a directory");
        let url = format!("sqlite:{}", dir.path().join("store").display());
        let store = Store::open(&url).await.expect("store");
        let pool = sqlx::AnyPool::connect(&url).await.expect("pool");
        let hosts = "INSERT INTO hosts (name, labels, agent_labels, facts, operations, agent_version, \
                     machine_id, key_fingerprint, certificate_until_us, enrolled_us, connection, \
                     since_us, reason, address, last_seen_us, revoked_us) \
                     VALUES ('web-1', '{}', '{}', '{}', '', '', '', '', 0, 0, 'up', 0, '', '', 0, 0)";
        // For a moment it takes nothing: the first does not fail for what it holds.
        let busy = "CREATE TRIGGER busy BEFORE INSERT ON health WHEN NEW.last_turn = 1 \
                    BEGIN SELECT RAISE(ABORT, 'busy'); END";
        for text in [hosts, busy] {
            sqlx::query(text).execute(&pool).await.expect(text);
        }
        let news = |last_turn| News {
            host: "web-1".parse().expect("a name"),
            memory: "m".into(),
            last_turn,
            heard_us: 1,
            left: Left::No,
            states: Vec::new(),
            turns: Vec::new(),
            untold: Vec::new(),
            gone: Vec::new(),
        };
        let mut group = vec![news(1), news(2)];
        write_singly(&store, &mut group).await;
        assert_eq!(group.iter().map(|n| n.last_turn).collect::<Vec<_>>(), [1, 2]);
        sqlx::query("DROP TRIGGER busy").execute(&pool).await.expect("dropped");
        write_singly(&store, &mut group).await;
        assert!(group.is_empty());
        let health = store.health().await.expect("read");
        assert_eq!(health.values().map(|h| h.last_turn).collect::<Vec<_>>(), [2]);
    }
}
