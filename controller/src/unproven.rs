//! Connections that have not even begun a handshake. They cost next to nothing and are bounded all
//! the same: when there are too many, the one that has been silent longest makes room.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How many there may be.
pub const ALL: usize = 1024;
/// How many of them may come from one address, behind which a whole fleet may stand. An agent is one
/// of them for the moment between its connection and its first bytes.
pub const EACH: usize = 256;

/// All of them. A clone is the same set.
#[derive(Debug, Clone, Default)]
pub struct Unproven(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    all: BTreeMap<Place, (IpAddr, CancellationToken)>,
    of: HashMap<IpAddr, BTreeSet<Place>>,
}

/// Who has said something already, and who came when: the first makes room first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    spoke: bool,
    number: u64,
}

impl State {
    fn put(&mut self, place: Place, address: IpAddr, evicted: CancellationToken) {
        self.all.insert(place, (address, evicted));
        self.of.entry(address).or_default().insert(place);
    }

    fn take(&mut self, place: Place) -> Option<(IpAddr, CancellationToken)> {
        let (address, evicted) = self.all.remove(&place)?;
        if let Some(places) = self.of.get_mut(&address) {
            places.remove(&place);
            if places.is_empty() {
                self.of.remove(&address);
            }
        }
        Some((address, evicted))
    }
}

/// One of them, for as long as this lives.
#[derive(Debug)]
pub struct Waiting {
    set: Unproven,
    place: Place,
    /// It has to make room.
    pub evicted: CancellationToken,
}

impl Unproven {
    /// Counts a connection. Another one may have to make room.
    pub fn join(&self, address: IpAddr) -> Waiting {
        let address = source(address);
        let evicted = CancellationToken::new();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.next += 1;
        let place = Place { spoke: false, number: state.next };
        let of = state.of.get(&address);
        let first = match of.filter(|places| places.len() >= EACH) {
            Some(places) => places.first().copied(),
            None if state.all.len() >= ALL => state.all.keys().next().copied(),
            None => None,
        };
        if let Some((_, evicted)) = first.and_then(|first| state.take(first)) {
            evicted.cancel();
        }
        state.put(place, address, evicted.clone());
        Waiting { set: self.clone(), place, evicted }
    }
}

impl Waiting {
    /// It has said something: those that have not make room first. False when it had to make room
    /// before.
    pub fn spoke(&mut self) -> bool {
        let mut state = self.set.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((address, evicted)) = state.take(self.place) else { return false };
        self.place.spoke = true;
        state.put(self.place, address, evicted);
        true
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.set.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.take(self.place);
    }
}

/// What one address may have of something that all share. A clone is the same.
#[derive(Debug, Clone)]
pub struct Shares {
    each: usize,
    of: Arc<Mutex<HashMap<IpAddr, Weak<Semaphore>>>>,
}

impl Shares {
    /// So many for each address.
    pub fn new(each: usize) -> Self {
        Self { each, of: Arc::default() }
    }

    /// The share of an address; it counts for as long as somebody holds it.
    pub fn of(&self, address: IpAddr) -> Arc<Semaphore> {
        let address = source(address);
        let mut all = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = all.get(&address).and_then(Weak::upgrade) {
            return share;
        }
        // Those that nobody holds any more are cleared away now and then.
        if all.len() >= all.capacity() {
            all.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Semaphore::new(self.each));
        all.insert(address, Arc::downgrade(&share));
        share
    }
}

/// Where a connection comes from: whoever has one address of IPv6 has its whole /64.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + n).into())
    }

    #[test]
    fn the_one_that_has_been_silent_longest_makes_room_and_only_among_those_of_its_address() {
        let set = Unproven::default();
        let other = set.join(address(2));
        let mut spoke = set.join(address(1));
        assert!(spoke.spoke());
        let silent = set.join(address(1));
        let rest: Vec<_> = (2..EACH).map(|_| set.join(address(1))).collect();
        assert!(!silent.evicted.is_cancelled());
        let newest = set.join(address(1));
        assert!(silent.evicted.is_cancelled());
        let kept = rest.iter().chain([&newest, &spoke, &other]);
        assert!(kept.into_iter().all(|w| !w.evicted.is_cancelled()));
    }

    #[test]
    fn all_addresses_together_are_bounded_and_who_leaves_makes_room_too() {
        let set = Unproven::default();
        let mut all: Vec<_> = (0..ALL).map(|n| set.join(address(n as u32))).collect();
        let left = all.pop();
        drop(left);
        let _last = set.join(address(5000));
        assert!(!all[0].evicted.is_cancelled());
        let _one_more = set.join(address(5001));
        assert!(all[0].evicted.is_cancelled() && !all[1].evicted.is_cancelled());
        drop((all, _last, _one_more));
        let state = set.0.lock().expect("lock");
        assert!(state.all.is_empty() && state.of.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let [a, b, c]: [IpAddr; 3] = ["2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"]
            .map(|text| text.parse().expect("an address"));
        assert_eq!(source(a), source(b));
        assert_ne!(source(a), source(c));
        assert_eq!(source("::ffff:10.0.0.1".parse().expect("mapped")), address(1));
    }
}
