//! Ctrl-C. What only looks is ended by it; an action goes on without its watcher, unless Ctrl-C is
//! pressed again.

use std::time::Duration;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

use crate::exit::{Exit, Problem};

/// How long a second Ctrl-C is waited for.
pub const SECOND_CHANCE: Duration = Duration::from_secs(3);
/// How long the hosts have to say that they ended.
pub const CANCELLING: Duration = Duration::from_secs(15);

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// End the call, and with it what runs.
    End,
    /// Say that it goes on, and wait a little for another Ctrl-C.
    Detach,
    /// Ask the controller to cancel it.
    Cancel,
    /// Leave it as it is.
    Leave,
}

/// What Ctrl-C has come to mean.
#[derive(Debug)]
pub struct Interrupts {
    signals: Signal,
    state: State,
}

impl Interrupts {
    /// Begins to listen. From now on Ctrl-C no longer ends the process by itself.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn listen(acts: bool) -> Result<Self, Problem> {
        let signals = signal(SignalKind::interrupt()).map_err(|e| {
            Problem::new(Exit::Failed, format!("Ctrl-C cannot be listened for: {e}"))
        })?;
        Ok(Self { signals, state: State::new(acts) })
    }

    /// Waits until something is to be done; may be dropped and called again.
    pub async fn next(&mut self) -> Step {
        let due = self.state.due;
        let passed = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.signals.recv() => self.state.pressed(Instant::now()),
            () = passed => self.state.passed(),
        }
    }
}

#[derive(Debug)]
struct State {
    acts: bool,
    presses: u8,
    due: Option<Instant>,
}

impl State {
    fn new(acts: bool) -> Self {
        Self { acts, presses: 0, due: None }
    }

    fn pressed(&mut self, now: Instant) -> Step {
        self.presses = self.presses.saturating_add(1);
        match (self.acts, self.presses) {
            (false, _) => Step::End,
            (true, 1) => {
                self.due = Some(now + SECOND_CHANCE);
                Step::Detach
            }
            (true, 2) => {
                self.due = Some(now + CANCELLING);
                Step::Cancel
            }
            (true, _) => Step::Leave,
        }
    }

    fn passed(&mut self) -> Step {
        self.due = None;
        Step::Leave
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_ends_with_the_first_press() {
        assert_eq!(State::new(false).pressed(Instant::now()), Step::End);
    }

    #[test]
    fn an_action_goes_on_until_the_second_press_cancels_it_and_a_third_leaves_it() {
        let mut state = State::new(true);
        let now = Instant::now();
        let steps = [(); 3].map(|()| state.pressed(now));
        assert_eq!(steps, [Step::Detach, Step::Cancel, Step::Leave]);
    }

    #[test]
    fn an_action_is_left_when_no_second_press_comes() {
        let mut state = State::new(true);
        let now = Instant::now();
        state.pressed(now);
        assert_eq!(state.due, Some(now + SECOND_CHANCE));
        assert_eq!(state.passed(), Step::Leave);
    }
}
