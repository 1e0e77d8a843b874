//! Enrolment tokens. Of a secret only its hash is here.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use sqlx::{Row, any::AnyRow};

use super::{Store, StoreError, from_json, to_json};

/// A token without its secret.
#[derive(Debug, Clone)]
pub struct TokenRow {
    /// Its name in lists.
    pub id: String,
    /// The host it is for; empty leaves the choice to the host.
    pub host: String,
    /// Labels that the host gets.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_us: i64,
    /// When it ends.
    pub expires_us: i64,
    /// How many hosts may still use it.
    pub uses_left: i64,
    /// Who made it.
    pub created_by: String,
    /// The host may take the place of one that has its name.
    pub replace: bool,
}

impl TokenRow {
    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let replaces: i64 = row.try_get("replaces")?;
        Ok(Self {
            id: row.try_get("id")?,
            host: row.try_get("host")?,
            labels: from_json(row.try_get("labels")?)?,
            created_us: row.try_get("created_us")?,
            expires_us: row.try_get("expires_us")?,
            uses_left: row.try_get("uses_left")?,
            created_by: row.try_get("created_by")?,
            replace: replaces != 0,
        })
    }
}

impl Store {
    /// Writes a token down.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn create_token(&self, token: &TokenRow, hash: &[u8; 32]) -> Result<(), StoreError> {
        let _writer = self.write().await;
        sqlx::query("INSERT INTO tokens VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)")
            .bind(token.id.as_str())
            .bind(HEXLOWER.encode(hash))
            .bind(token.host.as_str())
            .bind(to_json(&token.labels))
            .bind(token.created_us)
            .bind(token.expires_us)
            .bind(token.uses_left)
            .bind(token.created_by.as_str())
            .bind(i64::from(token.replace))
            .execute(&self.writes)
            .await?;
        Ok(())
    }

    /// The token of that id, when the secret is its own and it has not ended; used up or not.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn token(
        &self,
        id: &str,
        hash: &[u8; 32],
        now: i64,
    ) -> Result<Option<TokenRow>, StoreError> {
        // The hash is compared by the database: its timing tells nothing about 160 random bits.
        let row = sqlx::query(
            "SELECT * FROM tokens \
             WHERE id = $1 AND secret_hash = $2 AND expires_us > $3",
        )
        .bind(id)
        .bind(HEXLOWER.encode(hash))
        .bind(now)
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(TokenRow::read).transpose()
    }

    /// Tokens that can still be used.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn tokens(&self, now: i64) -> Result<Vec<TokenRow>, StoreError> {
        let query = "SELECT * FROM tokens WHERE uses_left > 0 AND expires_us > $1 \
                     ORDER BY created_us";
        let rows = sqlx::query(query).bind(now).fetch_all(&self.pool).await?;
        rows.iter().map(TokenRow::read).collect()
    }

    /// Makes a token useless; false when there is none.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn revoke_token(&self, id: &str) -> Result<bool, StoreError> {
        let _writer = self.write().await;
        // One that is used up would still answer its host once more, until it expires.
        let query =
            "UPDATE tokens SET uses_left = 0, expires_us = 0 WHERE id = $1 AND expires_us > 0";
        let query = sqlx::query(query);
        Ok(query.bind(id).execute(&self.writes).await?.rows_affected() == 1)
    }
}
