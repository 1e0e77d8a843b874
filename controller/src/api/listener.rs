//! The caller of a run, as long as it listens.

use std::time::Duration;

use hostler_proto::wire::{ErrorCode, Failure, RunEvent, run_event};
use tokio::sync::mpsc::{self, OwnedPermit};
use tonic::Status;

type Answer = Result<RunEvent, Status>;

/// Events that wait for a slow caller.
const WAITING: usize = 64;
/// How long the caller of an action may leave an event unread before it counts as gone.
const ACTING: Duration = Duration::from_secs(30);
/// The same for a probe, which waits for its caller: people read page by page.
const LOOKING: Duration = Duration::from_secs(15 * 60);

/// Whom a run is told to.
#[derive(Debug)]
pub(super) struct Listener {
    out: mpsc::Sender<Answer>,
    /// Room for one sentence, also where everything else is full.
    last: Option<OwnedPermit<Answer>>,
    unread: Duration,
    /// What is said when nothing is read for so long.
    slow: Failure,
    listens: bool,
}

impl Listener {
    /// A listener to an operation, and what it hears.
    pub(super) fn new(operation: &str, acts: bool) -> (Self, mpsc::Receiver<Answer>) {
        let (out, heard) = mpsc::channel(WAITING);
        let last = out.clone().try_reserve_owned().ok();
        let (unread, slow) = match acts {
            true => {
                let message = format!("the answers were not read for {} s", ACTING.as_secs());
                let hint = format!("{operation} goes on; the audit has how it ends");
                (ACTING, Failure::new(ErrorCode::Cancelled, message).hint(hint))
            }
            false => {
                let minutes = LOOKING.as_secs() / 60;
                let message = format!(
                    "the answers were not read for {minutes} min, and {operation} was ended"
                );
                let hint = "write them to a file first, or ask for less";
                (LOOKING, Failure::new(ErrorCode::Cancelled, message).hint(hint))
            }
        };
        (Self { out, last, unread, slow, listens: true }, heard)
    }

    /// Whether it still listens.
    pub(super) fn listens(&self) -> bool {
        self.listens
    }

    /// Waits until it is gone.
    pub(super) async fn gone(&self) {
        self.out.closed().await;
    }

    /// It is gone.
    pub(super) fn leave(&mut self) {
        self.listens = false;
    }

    /// Tells it something, and waits while it is slow.
    pub(super) async fn tell(&mut self, event: run_event::Event) {
        if !self.listens {
            return;
        }
        let sent = self.out.send(Ok(RunEvent { event: Some(event) }));
        match tokio::time::timeout(self.unread, sent).await {
            Ok(sent) => self.listens = sent.is_ok(),
            Err(_) => self.end(self.slow.clone().into()),
        }
    }

    /// Tells it why nothing more comes.
    pub(super) fn end(&mut self, why: Status) {
        if let Some(last) = self.last.take().filter(|_| self.listens) {
            last.send(Err(why));
        }
        self.listens = false;
    }
}

#[cfg(test)]
mod tests {
    use hostler_proto::wire::RunSummary;

    use super::*;

    fn summary() -> run_event::Event {
        run_event::Event::Summary(RunSummary::default())
    }

    #[tokio::test(start_paused = true)]
    async fn who_pages_is_waited_for_and_who_has_left_the_page_open_is_told_so() {
        let (mut listener, mut heard) = Listener::new("logs.tail", false);
        for _ in 0..WAITING - 1 {
            listener.tell(summary()).await;
        }
        let page = async {
            tokio::time::sleep(LOOKING - Duration::from_secs(1)).await;
            heard.recv().await
        };
        let (page, ()) = tokio::join!(page, listener.tell(summary()));
        assert!(page.is_some_and(|event| event.is_ok()) && listener.listens());
        listener.tell(summary()).await;
        assert!(!listener.listens());
        drop(listener);
        let mut all = Vec::new();
        while let Some(event) = heard.recv().await {
            all.push(event);
        }
        let last = all.pop().expect("an end").expect_err("a refusal");
        assert!(last.message().contains("not read for 15 min"), "{last:?}");
        assert!(all.iter().all(Result::is_ok));
    }
}
