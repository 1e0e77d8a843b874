//! The turns of the operations that ask one server. Those that wait while it hangs get what it gave to
//! those that asked it: it would give them no more, and only later.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use super::Trouble;

/// Sessions that this agent has with one server at a time, whatever asks for them.
pub(super) const AT_ONCE: usize = 2;
/// Longest that an operation waits for one of them.
const TURN: Duration = Duration::from_secs(8);
/// How long it counts that a server hangs, for whoever could not ask it.
const RECENT: Duration = Duration::from_secs(15);
/// Servers whose turns are kept while nobody has one.
const SERVERS: usize = 64;

/// The turns at one server.
#[derive(Debug)]
pub(super) struct Turns {
    pub(super) free: Arc<Semaphore>,
    /// When it hung, for whoever had the last turn.
    hung: Mutex<Option<(Instant, Trouble)>>,
}

/// A turn; the next one has it when this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    of: Arc<Turns>,
    _permit: OwnedSemaphorePermit,
}

/// The turns at an address.
pub(super) fn turns(address: &str) -> Arc<Turns> {
    static TURNS: LazyLock<Mutex<HashMap<String, Arc<Turns>>>> = LazyLock::new(Mutex::default);
    let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    if turns.len() >= SERVERS && !turns.contains_key(address) {
        turns.retain(|_, of| Arc::strong_count(of) > 1);
    }
    Arc::clone(turns.entry(address.to_owned()).or_insert_with(|| Arc::new(Turns::new())))
}

impl Turns {
    fn new() -> Self {
        Self { free: Arc::new(Semaphore::new(AT_ONCE)), hung: Mutex::default() }
    }

    /// Waits for the next turn.
    ///
    /// # Errors
    /// When none comes in time, or the server hung meanwhile.
    pub(super) async fn next(self: Arc<Self>) -> Result<Turn, Trouble> {
        let began = Instant::now();
        let permit = timeout(TURN, Arc::clone(&self.free).acquire_owned()).await;
        match permit {
            Ok(Ok(permit)) => match self.hung_within(began.elapsed()) {
                Some(trouble) => Err(trouble),
                None => Ok(Turn { of: self, _permit: permit }),
            },
            _ => Err(self.hung_within(RECENT).unwrap_or(Trouble::Taken)),
        }
    }

    fn hung_within(&self, time: Duration) -> Option<Trouble> {
        let hung = self.hung.lock().unwrap_or_else(PoisonError::into_inner);
        hung.as_ref().filter(|(at, _)| at.elapsed() < time).map(|(_, trouble)| trouble.clone())
    }
}

impl Turn {
    /// Says how the server took this turn: what is wrong with it where it hangs, and nothing else.
    pub(super) fn took(&self, trouble: Option<&Trouble>) {
        let hangs = trouble.filter(|t| matches!(t, Trouble::Hung(_) | Trouble::Silent(_)));
        *self.of.hung.lock().unwrap_or_else(PoisonError::into_inner) =
            hangs.map(|trouble| (Instant::now(), trouble.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hung() -> Trouble {
        Trouble::Hung("it said nothing".into())
    }

    /// Two that have their turns, and one that waits for the next.
    async fn three() -> (Arc<Turns>, [Turn; 2], tokio::task::JoinHandle<Result<Turn, Trouble>>) {
        let turns = Arc::new(Turns::new());
        let first = Arc::clone(&turns).next().await.expect("a turn");
        let second = Arc::clone(&turns).next().await.expect("another");
        let third = tokio::spawn(Arc::clone(&turns).next());
        // It begins to wait.
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(5)).await;
        (turns, [first, second], third)
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_server_that_hangs_hears_that_it_does() {
        let (turns, [first, second], third) = three().await;
        first.took(Some(&hung()));
        drop(first);
        let heard = third.await.expect("it ended").expect_err("no turn");
        assert_eq!(heard, hung(), "it asks no more");
        // Whoever comes now asks for itself; whoever can not still knows it for some seconds.
        let own = Arc::clone(&turns).next().await.expect("its own turn");
        assert_eq!(Arc::clone(&turns).next().await.expect_err("no turn"), hung());
        tokio::time::advance(RECENT).await;
        let taken = Arc::clone(&turns).next().await.expect_err("no turn");
        assert_eq!(taken, Trouble::Taken, "that is long ago");
        drop((own, second));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_server_that_serves_gets_a_turn_or_is_told_that_all_are_taken() {
        let (turns, [first, second], third) = three().await;
        first.took(Some(&hung()));
        // It answered since.
        second.took(None);
        drop(first);
        let third = third.await.expect("it ended").expect("a turn");
        third.took(Some(&Trouble::Full("sorry".into())));
        assert_eq!(turns.next().await.expect_err("no turn"), Trouble::Taken);
        drop((second, third));
    }

    #[test]
    fn turns_are_kept_of_so_many_servers_and_of_those_at_which_somebody_has_one() {
        let has = turns("kept.example:1");
        for n in 0..2 * SERVERS {
            turns(&format!("host-{n}.example:1"));
        }
        assert!(Arc::ptr_eq(&has, &turns("kept.example:1")));
        let first = turns("host-0.example:1");
        assert_eq!(Arc::strong_count(&first), 2, "it was made anew, and is kept");
    }
}
