//! Numbers of series: in the days of figures each stands for what a figure is of. All of them are in
//! memory, since each hour of each host is written and read with them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sqlx::{AnyPool, Row, any::AnyRow};

use super::{StoreError, transaction::Transaction};
use crate::health::figures::Key;

/// Most series of the whole fleet. What would be one more is not kept: hosts that measure something else
/// each hour do not fill the store.
const MOST: usize = 100_000;

/// The numbers that the store knows. A clone is the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    known: Option<Arc<Known>>,
    /// Counts up with each change: what was read before one is not kept after it.
    changes: u64,
}

/// What was read and given so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// Number and last day by what it is of.
    numbers: HashMap<Arc<Key>, (u32, i64)>,
    keys: HashMap<u32, Arc<Key>>,
    next: u32,
}

impl Numbers {
    /// What is known, read from the store the first time.
    pub(super) async fn known(&self, pool: &AnyPool) -> Result<Arc<Known>, StoreError> {
        let changes = {
            let kept = self.lock();
            if let Some(known) = &kept.known {
                return Ok(Arc::clone(known));
            }
            kept.changes
        };
        let mut known = Known::default();
        for row in sqlx::query("SELECT * FROM series").fetch_all(pool).await? {
            let (key, number, day_us) = read(&row)?;
            known.take(key, number, day_us);
        }
        let known = Arc::new(known);
        let mut kept = self.lock();
        if kept.changes == changes {
            kept.known = Some(Arc::clone(&known));
        }
        Ok(known)
    }

    /// What was given in a transaction that is committed.
    pub(super) fn set(&self, known: Arc<Known>) {
        let mut kept = self.lock();
        (kept.known, kept.changes) = (Some(known), kept.changes + 1);
    }

    /// What the store has is read anew when it is needed.
    pub(super) fn forget(&self) {
        let mut kept = self.lock();
        (kept.known, kept.changes) = (None, kept.changes + 1);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn take(&mut self, key: Key, number: u32, day_us: i64) {
        let key = Arc::new(key);
        self.keys.insert(number, Arc::clone(&key));
        self.numbers.insert(key, (number, day_us));
        self.next = self.next.max(number.saturating_add(1));
    }

    /// What a number stands for.
    pub(super) fn key(&self, number: u32) -> Option<&Arc<Key>> {
        self.keys.get(&number)
    }

    /// The number of a series that was measured on a day, which is given it when it has none; none when
    /// there are too many.
    pub(super) async fn number(
        &mut self,
        transaction: &mut Transaction<'_>,
        key: &Key,
        day_us: i64,
    ) -> Result<Option<u32>, StoreError> {
        if let Some((number, last)) = self.numbers.get_mut(key) {
            if *last < day_us {
                sqlx::query("UPDATE series SET day_us = $2 WHERE number = $1")
                    .bind(i64::from(*number))
                    .bind(day_us)
                    .execute(&mut **transaction)
                    .await?;
                *last = day_us;
            }
            return Ok(Some(*number));
        }
        if self.numbers.len() >= MOST || self.next == u32::MAX {
            return Ok(None);
        }
        let number = self.next;
        sqlx::query(
            "INSERT INTO series (number, check_name, name, subject, unit, day_us) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(i64::from(number))
        .bind(key.check.as_str())
        .bind(key.name.as_str())
        .bind(key.subject.as_str())
        .bind(key.unit.as_str())
        .bind(day_us)
        .execute(&mut **transaction)
        .await?;
        self.take(key.clone(), number, day_us);
        Ok(Some(number))
    }
}

fn read(row: &AnyRow) -> Result<(Key, u32, i64), StoreError> {
    let number: i64 = row.try_get("number")?;
    let key = Key {
        check: row.try_get("check_name")?,
        name: row.try_get("name")?,
        subject: row.try_get("subject")?,
        unit: row.try_get("unit")?,
    };
    let number = u32::try_from(number)
        .map_err(|_| StoreError::Damaged(format!("the number of a series is {number}")))?;
    Ok((key, number, row.try_get("day_us")?))
}
