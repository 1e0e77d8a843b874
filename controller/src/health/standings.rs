//! How the checks of one host stand, by their names. Of ten thousand hosts there are hundreds of thousands
//! of them: they lie side by side in order, with no room between, where a tree keeps as much again.

use super::Standing;

/// The checks of a host.
#[derive(Debug, Clone, Default)]
pub struct Standings(Vec<(Box<str>, Standing)>);

impl Standings {
    /// Where a name is, or would be.
    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(there, _)| (**there).cmp(name))
    }

    /// How one stands.
    pub fn get(&self, name: &str) -> Option<&Standing> {
        self.named(name).map(|(_, standing)| standing)
    }

    /// The same, with its name from here.
    pub fn named(&self, name: &str) -> Option<(&str, &Standing)> {
        let (name, standing) = self.0.get(self.place(name).ok()?)?;
        Some((name, standing))
    }

    /// One, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Standing> {
        let place = self.place(name).ok()?;
        self.0.get_mut(place).map(|(_, standing)| standing)
    }

    /// Whether there is one of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.place(name).is_ok()
    }

    /// Puts one in the place of that of the same name.
    pub fn insert(&mut self, name: &str, standing: Standing) {
        match self.place(name) {
            Ok(place) => self.0[place].1 = standing,
            Err(place) => {
                self.0.reserve_exact(1);
                self.0.insert(place, (name.into(), standing));
            }
        }
    }

    /// Takes those out that are not wanted; gives them.
    pub fn take_others(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<Standing> {
        let others = self.0.extract_if(.., |(name, _)| !wanted(name));
        others.map(|(_, standing)| standing).collect()
    }

    /// All, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Standing)> {
        self.0.iter().map(|(name, standing)| (&**name, standing))
    }

    /// All, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Standing)> {
        self.0.iter_mut().map(|(name, standing)| (&**name, standing))
    }

    /// All without their names.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &Standing> {
        self.0.iter().map(|(_, standing)| standing)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<N: AsRef<str>> FromIterator<(N, Standing)> for Standings {
    fn from_iter<I: IntoIterator<Item = (N, Standing)>>(all: I) -> Self {
        let mut standings = Self::default();
        all.into_iter().for_each(|(name, standing)| standings.insert(name.as_ref(), standing));
        standings
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hostler_proto::wire::CheckState;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_what_a_map_by_name_would_be(
            told in prop::collection::vec(("[a-d]{1,2}", 0_i64..9), 0..40),
            wanted in "[a-d]",
        ) {
            let standing = |at| Standing::new(CheckState::default(), at);
            let mut map: BTreeMap<String, i64> = told.iter().cloned().collect();
            let mut ours: Standings = told.iter().map(|(n, at)| (n, standing(*at))).collect();
            let seen = |ours: &Standings| -> Vec<(String, i64)> {
                ours.iter().map(|(n, s)| (n.to_owned(), s.heard_us)).collect()
            };
            prop_assert_eq!(seen(&ours), map.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(ours.get(&wanted).map(|s| s.heard_us), map.get(&wanted).copied());
            let fits = |name: &str| name.starts_with(&*wanted);
            let gone = ours.take_others(fits).len();
            map.retain(|name, _| fits(name));
            prop_assert_eq!(seen(&ours), map.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(told.iter().map(|(n, _)| n).collect::<std::collections::BTreeSet<_>>().len(),
                gone + map.len());
        }
    }
}
