//! Figures of past hours. A row is an hour of a host: for each series its number, the mean and the
//! greatest value, twelve bytes together, in base64.

use std::collections::HashMap;

use data_encoding::BASE64;
use hostler_proto::name::HostName;
use sqlx::Row;

use super::{Store, StoreError};
use crate::health::figures::{Hour, Key, Point};

/// Bytes of one series in a row.
const WIDTH: usize = 12;

impl Store {
    /// Writes hours down, all or none.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn add_hours(&self, hours: &[Hour]) -> Result<(), StoreError> {
        let _writer = self.write().await;
        let mut numbers = self.numbers().await?;
        let mut transaction = self.pool.begin().await?;
        for hour in hours {
            let mut data = Vec::with_capacity(hour.values.len() * WIDTH);
            for (key, mean, most) in &hour.values {
                let number = match numbers.get(&**key) {
                    Some(number) => *number,
                    None => {
                        let number = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
                        sqlx::query(
                            "INSERT INTO series (number, check_name, name, subject, unit) \
                             VALUES ($1, $2, $3, $4, $5)",
                        )
                        .bind(i64::from(number))
                        .bind(key.check.as_str())
                        .bind(key.name.as_str())
                        .bind(key.subject.as_str())
                        .bind(key.unit.as_str())
                        .execute(&mut *transaction)
                        .await?;
                        numbers.insert((**key).clone(), number);
                        number
                    }
                };
                data.extend(number.to_le_bytes());
                data.extend(mean.to_le_bytes());
                data.extend(most.to_le_bytes());
            }
            sqlx::query(
                "INSERT INTO figures (host, hour_us, data) SELECT name, $2, $3 FROM hosts \
                 WHERE name = $1 ON CONFLICT (host, hour_us) DO UPDATE SET data = excluded.data",
            )
            .bind(hour.host.as_str())
            .bind(hour.begins_us)
            .bind(BASE64.encode(&data))
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    async fn numbers(&self) -> Result<HashMap<Key, u32>, StoreError> {
        let rows = sqlx::query("SELECT * FROM series").fetch_all(&self.pool).await?;
        let read = |row: &sqlx::any::AnyRow| -> Result<(Key, u32), StoreError> {
            let number: i64 = row.try_get("number")?;
            let key = Key {
                check: row.try_get("check_name")?,
                name: row.try_get("name")?,
                subject: row.try_get("subject")?,
                unit: row.try_get("unit")?,
            };
            Ok((key, u32::try_from(number).unwrap_or(u32::MAX)))
        };
        rows.iter().map(read).collect()
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
        let keys: HashMap<u32, Key> =
            self.numbers().await?.into_iter().map(|(key, number)| (number, key)).collect();
        let rows =
            sqlx::query("SELECT * FROM figures WHERE host = $1 AND hour_us >= $2 ORDER BY hour_us")
                .bind(host.as_str())
                .bind(since_us)
                .fetch_all(&self.pool)
                .await?;
        let mut series: HashMap<Key, Vec<Point>> = HashMap::new();
        for row in rows {
            let (at_us, data): (i64, String) = (row.try_get("hour_us")?, row.try_get("data")?);
            let data = BASE64
                .decode(data.as_bytes())
                .map_err(|_| StoreError::Damaged(format!("the figures of {host} at {at_us}")))?;
            for part in data.chunks_exact(WIDTH) {
                let word = |at: usize| [part[at], part[at + 1], part[at + 2], part[at + 3]];
                let Some(key) = keys.get(&u32::from_le_bytes(word(0))) else { continue };
                let (mean, most) = (f32::from_le_bytes(word(4)), f32::from_le_bytes(word(8)));
                let point = Point { at_us, mean: mean.into(), most: most.into() };
                series.entry(key.clone()).or_default().push(point);
            }
        }
        Ok(series)
    }

    /// Takes hours out that began before some time.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn forget_hours(&self, before_us: i64) -> Result<(), StoreError> {
        let _writer = self.write().await;
        let query = sqlx::query("DELETE FROM figures WHERE hour_us < $1").bind(before_us);
        query.execute(&self.pool).await?;
        Ok(())
    }
}
