//! Sorting what people are shown. The standard library's sort is four kilobytes of code for every type that
//! is sorted, and the agent, which is to be small, sorts some forty: here they share one. What is sorted by the
//! hundred thousand is better sorted by the standard library's.

use std::cmp::Ordering;

/// A list that is sorted as the standard library would do it.
pub(crate) trait Order<T> {
    /// As `sort_by`.
    fn order_by(&mut self, compare: impl Fn(&T, &T) -> Ordering);

    /// As `sort_by_key`.
    fn order_by_key<K: Ord>(&mut self, key: impl Fn(&T) -> K) {
        self.order_by(|a, b| key(a).cmp(&key(b)));
    }
}

impl<T> Order<T> for [T] {
    fn order_by(&mut self, compare: impl Fn(&T, &T) -> Ordering) {
        let mut places = places(self.len(), &|a, b| compare(&self[a], &self[b]));
        for begin in 0..self.len() {
            // Each round of exchanges ends where it began.
            let mut at = begin;
            while places[at] != begin {
                let from = places[at];
                self.swap(at, from);
                places[at] = at;
                at = from;
            }
            places[at] = at;
        }
    }
}

/// Where what belongs at each place is.
fn places(length: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut places: Vec<usize> = (0..length).collect();
    places.sort_by(|a, b| compare(*a, *b));
    places
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_sorts_as_the_standard_library_does(
            list in prop::collection::vec((0_u8..9, any::<u16>()), 0..60),
        ) {
            let (mut expected, mut ours) = (list.clone(), list.clone());
            expected.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
            ours.order_by(|a, b| b.0.cmp(&a.0));
            prop_assert_eq!(&ours, &expected, "what is equal stays in its order");
            expected.sort_by_key(|(_, n)| n % 7);
            ours.order_by_key(|(_, n)| n % 7);
            prop_assert_eq!(ours, expected);
        }
    }
}
