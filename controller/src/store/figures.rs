//! Figures of past hours, kept in days: for each series and hour the number of the series, that of
//! the hour, the mean and the greatest value, thirteen bytes together, before they are compressed.

use std::collections::HashMap;

use hostler_proto::name::HostName;

use super::{
    Store, StoreError,
    days::{Days, day},
};
use crate::health::figures::{Counted, HOUR_US, Hour, Key, Point};

/// Bytes of one series in one hour.
const WIDTH: usize = 13;
/// Bits of a value that are not kept: five digits tell how a disk fills, and shorter values make
/// shorter days.
const TAIL: u32 = 0x7f;

/// One series in one hour of a day.
#[derive(Debug, Clone, Copy)]
struct Entry {
    series: u32,
    hour: u8,
    mean: f32,
    most: f32,
}

impl Entry {
    fn read(part: &[u8; WIDTH]) -> Self {
        let word = |at: usize| [part[at], part[at + 1], part[at + 2], part[at + 3]];
        Self {
            series: u32::from_le_bytes(word(0)),
            hour: part[4],
            mean: f32::from_le_bytes(word(5)),
            most: f32::from_le_bytes(word(9)),
        }
    }

    fn write(self, into: &mut Vec<u8>) {
        let short = |value: f32| f32::from_bits(value.to_bits() & !TAIL).to_le_bytes();
        into.extend(self.series.to_le_bytes());
        into.push(self.hour);
        into.extend(short(self.mean));
        into.extend(short(self.most));
    }
}

fn entries(data: &[u8]) -> impl Iterator<Item = Entry> {
    data.chunks_exact(WIDTH).filter_map(|part| part.try_into().ok().map(Entry::read))
}

impl Store {
    /// Writes hours down, all or none. What of an hour was written before counts for the rest of it.
    ///
    /// # Errors
    /// When the store refuses, or is damaged.
    pub async fn add_hours(&self, hours: &[Hour]) -> Result<(), StoreError> {
        let done = self.try_add_hours(hours).await;
        // Perhaps the commit was done and its answer lost.
        done.inspect_err(|_| self.series.forget())
    }

    async fn try_add_hours(&self, hours: &[Hour]) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        let mut numbers = (*self.series.known(&self.pool).await?).clone();
        for hour in hours {
            let day_us = day(hour.begins_us);
            let of_day = u8::try_from((hour.begins_us - day_us) / HOUR_US).unwrap_or(u8::MAX);
            let known = Days::Figures.read(&mut transaction, &hour.host, day_us).await?;
            let (before, mut all): (Vec<Entry>, Vec<Entry>) =
                entries(&known).partition(|entry| entry.hour == of_day);
            let mut before: HashMap<u32, Entry> =
                before.into_iter().map(|entry| (entry.series, entry)).collect();
            for Counted { key, mean, most, share } in &hour.values {
                let series = numbers.number(&mut transaction, key, day_us).await?;
                let Some(series) = series else {
                    self.left_out("there are too many kinds of figures".to_owned());
                    continue;
                };
                let (mean, most) = match before.remove(&series) {
                    Some(old) => (old.mean + (mean - old.mean) * share, most.max(old.most)),
                    None => (*mean, *most),
                };
                all.push(Entry { series, hour: of_day, mean, most });
            }
            all.extend(before.into_values());
            // What is alike lies side by side, and becomes short.
            all.sort_by_key(|entry| (entry.series, entry.hour));
            let mut data = Vec::with_capacity(all.len() * WIDTH);
            all.into_iter().for_each(|entry| entry.write(&mut data));
            Days::Figures.write(&mut transaction, &hour.host, day_us, &data).await?;
        }
        transaction.commit().await?;
        self.series.set(numbers.into());
        Ok(())
    }

    /// The hours of a host since some time, by series, in their order.
    ///
    /// # Errors
    /// When the store refuses, or is damaged.
    pub async fn hours(
        &self,
        host: &HostName,
        since_us: i64,
    ) -> Result<HashMap<Key, Vec<Point>>, StoreError> {
        let known = self.series.known(&self.pool).await?;
        let mut series: HashMap<Key, Vec<Point>> = HashMap::new();
        for (day_us, data) in self.days(Days::Figures, host, since_us).await?.iter().rev() {
            for entry in entries(data) {
                let at_us = day_us + i64::from(entry.hour) * HOUR_US;
                let Some(key) = known.key(entry.series).filter(|_| at_us >= since_us) else {
                    continue;
                };
                let point = Point { at_us, mean: entry.mean.into(), most: entry.most.into() };
                series.entry((**key).clone()).or_default().push(point);
            }
        }
        Ok(series)
    }

    /// Takes days out that were over before some time, and what nobody measures since then.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn forget_figures(&self, before_us: i64) -> Result<(), StoreError> {
        let _writer = self.write().await;
        let query = sqlx::query("DELETE FROM figure_days WHERE day_us < $1").bind(day(before_us));
        query.execute(&self.writes).await?;
        let query = sqlx::query("DELETE FROM series WHERE day_us < $1").bind(day(before_us));
        let done = query.execute(&self.writes).await;
        // Perhaps it was done and its answer lost: no number that is no more is written.
        if done.as_ref().is_ok_and(|done| done.rows_affected() == 0) {
            return Ok(());
        }
        self.series.forget();
        done?;
        Ok(())
    }
}
