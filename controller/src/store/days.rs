//! Days of hosts: what is over, compressed, one row for a host and a day. A row is read, added to and
//! written again; of ten thousand hosts there are ten thousand a day.

use std::io::{Read as _, Write as _};

use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use hostler_proto::name::HostName;
use sqlx::Row;

use super::{Store, StoreError, transaction::Transaction};

/// Length of a day, which is UTC's.
pub(super) const DAY_US: i64 = 86_400_000_000;
/// Most bytes that one row can mean.
const MOST: u64 = 64 << 20;

/// Tables of days.
#[derive(Debug, Clone, Copy)]
pub(super) enum Days {
    Turns,
    Figures,
}

impl Days {
    fn table(self) -> &'static str {
        match self {
            Self::Turns => "turn_days",
            Self::Figures => "figure_days",
        }
    }

    /// What a day holds until now; nothing when there is no row of it.
    pub(super) async fn read(
        self,
        transaction: &mut Transaction<'_>,
        host: &HostName,
        day_us: i64,
    ) -> Result<Vec<u8>, StoreError> {
        let text = format!("SELECT data FROM {} WHERE host = $1 AND day_us = $2", self.table());
        let query = sqlx::query(&text).bind(host.as_str()).bind(day_us);
        match query.fetch_optional(&mut **transaction).await? {
            Some(row) => unpacked(&row.try_get::<Vec<u8>, _>("data")?),
            None => Ok(Vec::new()),
        }
    }

    /// Puts what a day holds now in the place of what it held. A host that is not known is left out.
    pub(super) async fn write(
        self,
        transaction: &mut Transaction<'_>,
        host: &HostName,
        day_us: i64,
        data: &[u8],
    ) -> Result<(), StoreError> {
        let text = format!(
            "INSERT INTO {} (host, day_us, data) SELECT name, $2, $3 FROM hosts WHERE name = $1 \
             ON CONFLICT (host, day_us) DO UPDATE SET data = excluded.data",
            self.table()
        );
        let query = sqlx::query(&text).bind(host.as_str()).bind(day_us).bind(packed(data)?);
        query.execute(&mut **transaction).await?;
        Ok(())
    }
}

impl Store {
    /// The days of a host since the one that holds some time, the newest first. One that cannot be read
    /// is left out.
    pub(super) async fn days(
        &self,
        of: Days,
        host: &HostName,
        since_us: i64,
    ) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
        let text = format!(
            "SELECT day_us, data FROM {} WHERE host = $1 AND day_us > $2 ORDER BY day_us DESC",
            of.table()
        );
        let since_us = since_us.saturating_sub(DAY_US);
        let rows =
            sqlx::query(&text).bind(host.as_str()).bind(since_us).fetch_all(&self.pool).await?;
        let read = |row: &sqlx::any::AnyRow| {
            let day_us: i64 = row.try_get("day_us")?;
            let data = unpacked(&row.try_get::<Vec<u8>, _>("data")?)
                .map_err(|e| StoreError::Damaged(format!("day {day_us} of {host}: {e}")))?;
            Ok((day_us, data))
        };
        self.readable(&rows, read)
    }
}

/// The day that holds some time.
pub(super) fn day(at_us: i64) -> i64 {
    at_us - at_us.rem_euclid(DAY_US)
}

fn packed(data: &[u8]) -> Result<Vec<u8>, StoreError> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    let written = encoder.write_all(data).and_then(|()| encoder.finish());
    written.map_err(|e| StoreError::Damaged(format!("a day cannot be compressed: {e}")))
}

fn unpacked(data: &[u8]) -> Result<Vec<u8>, StoreError> {
    let mut whole = Vec::new();
    let read = DeflateDecoder::new(data).take(MOST).read_to_end(&mut whole);
    match read {
        Ok(length) if length as u64 == MOST => {
            Err(StoreError::Damaged("a day is longer than any can be".to_owned()))
        }
        Ok(_) => Ok(whole),
        Err(e) => Err(StoreError::Damaged(format!("a day cannot be read: {e}"))),
    }
}
