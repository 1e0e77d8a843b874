//! Operators' live connections, so that revoking one ends them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use hostler_core::identity::PrincipalName;
use tokio_util::sync::CancellationToken;

/// All operators' connections. A clone is the same set.
#[derive(Debug, Clone, Default)]
pub struct Sessions(Arc<Mutex<HashMap<PrincipalName, Vec<Weak<CancellationToken>>>>>);

impl Sessions {
    /// Counts a connection for as long as the token lives; it must end when that is cancelled.
    pub fn join(&self, operator: PrincipalName) -> Arc<CancellationToken> {
        let token = Arc::new(CancellationToken::new());
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = sessions.entry(operator).or_default();
        of.retain(|t| t.strong_count() > 0);
        of.push(Arc::downgrade(&token));
        token
    }

    /// Ends every connection of an operator, and says how many there were.
    pub fn cut(&self, operator: &PrincipalName) -> u32 {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = sessions.remove(operator).unwrap_or_default();
        let live = of.iter().filter_map(Weak::upgrade);
        u32::try_from(live.inspect(|t| t.cancel()).count()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revoked_operator_loses_every_connection_and_others_none() {
        let sessions = Sessions::default();
        let (alice, bob) = ("alice".parse().expect("name"), "bob".parse().expect("name"));
        let (a, b, c) = (
            sessions.join(PrincipalName::clone(&alice)),
            sessions.join(alice.clone()),
            sessions.join(bob),
        );
        drop(a);
        assert_eq!(sessions.cut(&alice), 1);
        assert!(b.is_cancelled() && !c.is_cancelled());
        assert_eq!(sessions.cut(&alice), 0);
    }
}
