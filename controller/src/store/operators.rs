//! Operators and what they may do.

use hostler_core::identity::PrincipalName;
use sqlx::{Row, any::AnyRow};

use super::{Store, StoreError};
use crate::{authz::Role, selector::Selector};

/// An operator.
#[derive(Debug, Clone)]
pub struct OperatorRow {
    /// The name in the certificate.
    pub name: PrincipalName,
    /// What it may do.
    pub role: Role,
    /// On which hosts; none is all.
    pub scope: Option<Selector>,
    /// Serial number of the only certificate that counts.
    pub serial: String,
    /// When it was made.
    pub created_us: i64,
    /// End of the certificate.
    pub certificate_until_us: i64,
    /// When it was revoked.
    pub revoked_us: Option<i64>,
}

impl OperatorRow {
    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let damaged = |what: &str| StoreError::Damaged(format!("operator \"{what}\""));
        let (name, role): (String, String) = (row.try_get("name")?, row.try_get("role")?);
        let scope: String = row.try_get("scope")?;
        let revoked: i64 = row.try_get("revoked_us")?;
        Ok(Self {
            name: name.parse().map_err(|_| damaged(&name))?,
            role: role.parse().map_err(|_| damaged(&role))?,
            scope: match scope.as_str() {
                "" => None,
                text => Some(text.parse().map_err(|_| damaged(text))?),
            },
            serial: row.try_get("serial")?,
            created_us: row.try_get("created_us")?,
            certificate_until_us: row.try_get("certificate_until_us")?,
            revoked_us: (revoked != 0).then_some(revoked),
        })
    }
}

impl Store {
    /// Writes an operator down. One that was revoked may be added again; one that counts may not.
    ///
    /// # Errors
    /// When the store refuses. False when there is an operator of that name.
    pub async fn add_operator(&self, operator: &OperatorRow) -> Result<bool, StoreError> {
        let _writer = self.write().await;
        let done = sqlx::query(
            "INSERT INTO operators VALUES ($1, $2, $3, $4, $5, $6, 0) \
             ON CONFLICT (name) DO UPDATE SET role = $2, scope = $3, serial = $4, \
             created_us = $5, certificate_until_us = $6, revoked_us = 0 \
             WHERE operators.revoked_us <> 0",
        )
        .bind(operator.name.to_string())
        .bind(operator.role.to_string())
        .bind(operator.scope.as_ref().map(ToString::to_string).unwrap_or_default())
        .bind(operator.serial.as_str())
        .bind(operator.created_us)
        .bind(operator.certificate_until_us)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// One operator.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn operator(&self, name: &PrincipalName) -> Result<Option<OperatorRow>, StoreError> {
        let query = sqlx::query("SELECT * FROM operators WHERE name = $1").bind(name.to_string());
        let row = query.fetch_optional(&self.pool).await?;
        row.as_ref().map(OperatorRow::read).transpose()
    }

    /// All operators, by name.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn operators(&self) -> Result<Vec<OperatorRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM operators ORDER BY name").fetch_all(&self.pool);
        rows.await?.iter().map(OperatorRow::read).collect()
    }

    /// Makes an operator's certificate worthless; false when there is no such operator.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn revoke_operator(
        &self,
        name: &PrincipalName,
        now: i64,
    ) -> Result<bool, StoreError> {
        let _writer = self.write().await;
        let done =
            sqlx::query("UPDATE operators SET revoked_us = $2 WHERE name = $1 AND revoked_us = 0")
                .bind(name.to_string())
                .bind(now)
                .execute(&self.pool)
                .await?;
        Ok(done.rows_affected() == 1)
    }
}
