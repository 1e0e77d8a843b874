//! Operators and what they may do.

use hostler_core::identity::PrincipalName;
use sqlx::{Row, any::AnyRow};

use super::{Store, StoreError};
use crate::{
    authz::{Operations, Role},
    selector::Selector,
};

/// An operator.
#[derive(Debug, Clone)]
pub struct OperatorRow {
    /// The name in the certificate.
    pub name: PrincipalName,
    /// What it may do.
    pub role: Role,
    /// On which hosts; none is all.
    pub scope: Option<Selector>,
    /// By which operations.
    pub operations: Operations,
    /// Serial number of the newest certificate.
    pub serial: String,
    /// Fingerprint of its key. Every certificate for it counts until it ends.
    pub key: String,
    /// The operator may renew the certificate itself.
    pub renewable: bool,
    /// When it was made.
    pub created_us: i64,
    /// End of the certificate.
    pub certificate_until_us: i64,
    /// When it was revoked.
    pub revoked_us: Option<i64>,
}

impl OperatorRow {
    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let (name, role): (String, String) = (row.try_get("name")?, row.try_get("role")?);
        let damaged =
            |what: &str| StoreError::Damaged(format!("the {what} of operator \"{name}\""));
        let scope: String = row.try_get("scope")?;
        let operations: String = row.try_get("operations")?;
        let revoked: i64 = row.try_get("revoked_us")?;
        Ok(Self {
            name: name.parse().map_err(|_| damaged("name"))?,
            role: role.parse().map_err(|_| damaged("role"))?,
            scope: match scope.as_str() {
                "" => None,
                text => Some(Selector::printed(text).map_err(|_| damaged("hosts"))?),
            },
            operations: operations.parse().map_err(|_| damaged("operations"))?,
            serial: row.try_get("serial")?,
            key: row.try_get("key_fingerprint")?,
            renewable: row.try_get::<i64, _>("renewable")? != 0,
            created_us: row.try_get("created_us")?,
            certificate_until_us: row.try_get("certificate_until_us")?,
            revoked_us: (revoked != 0).then_some(revoked),
        })
    }
}

impl Store {
    /// Writes an operator down. One that was revoked may be added again; one that counts only when it
    /// is replaced.
    ///
    /// # Errors
    /// When the store refuses. False when there is an operator of that name.
    pub async fn add_operator(
        &self,
        operator: &OperatorRow,
        replace: bool,
    ) -> Result<bool, StoreError> {
        let _writer = self.write().await;
        let done = sqlx::query(
            "INSERT INTO operators (name, role, scope, serial, created_us, certificate_until_us, \
             revoked_us, key_fingerprint, renewable, operations) \
             VALUES ($1, $2, $3, $4, $5, $6, 0, $7, $8, $9) \
             ON CONFLICT (name) DO UPDATE SET role = $2, scope = $3, serial = $4, \
             created_us = $5, certificate_until_us = $6, revoked_us = 0, key_fingerprint = $7, \
             renewable = $8, operations = $9 WHERE operators.revoked_us <> 0 OR $10 = 1",
        )
        .bind(operator.name.to_string())
        .bind(operator.role.to_string())
        .bind(operator.scope.as_ref().map(ToString::to_string).unwrap_or_default())
        .bind(operator.serial.as_str())
        .bind(operator.created_us)
        .bind(operator.certificate_until_us)
        .bind(operator.key.as_str())
        .bind(i64::from(operator.renewable))
        .bind(operator.operations.to_string())
        .bind(i64::from(replace))
        .execute(&self.writes)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Writes down an operator's renewed certificate, unless it was revoked or replaced meanwhile.
    ///
    /// # Errors
    /// When the store refuses. False when it was.
    pub async fn renew_operator(
        &self,
        name: &PrincipalName,
        key: &str,
        serial: &str,
        until_us: i64,
    ) -> Result<bool, StoreError> {
        let _writer = self.write().await;
        let done = sqlx::query(
            "UPDATE operators SET serial = $3, certificate_until_us = $4 \
             WHERE name = $1 AND key_fingerprint = $2 AND revoked_us = 0",
        )
        .bind(name.to_string())
        .bind(key)
        .bind(serial)
        .bind(until_us)
        .execute(&self.writes)
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

    /// All operators, by name. One whose row is damaged is not among them, and may do nothing.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn operators(&self) -> Result<Vec<OperatorRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM operators ORDER BY name").fetch_all(&self.pool);
        self.readable(&rows.await?, OperatorRow::read)
    }

    /// Makes an operator's certificates worthless. The last admin of the whole fleet stays.
    ///
    /// # Errors
    /// When the store refuses. False when there is no such operator, or nobody else could add one.
    pub async fn revoke_operator(
        &self,
        name: &PrincipalName,
        now: i64,
    ) -> Result<bool, StoreError> {
        let _writer = self.write().await;
        let done = sqlx::query(
            "UPDATE operators SET revoked_us = $2 WHERE name = $1 AND revoked_us = 0 \
                 AND (role <> 'admin' OR certificate_until_us <= $2 OR EXISTS (\
                 SELECT 1 FROM operators o WHERE o.name <> $1 AND o.role = 'admin' \
                 AND o.scope = '' AND o.revoked_us = 0 AND o.certificate_until_us > $2))",
        )
        .bind(name.to_string())
        .bind(now)
        .execute(&self.writes)
        .await?;
        Ok(done.rows_affected() == 1)
    }
}
