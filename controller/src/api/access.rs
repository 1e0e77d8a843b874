//! Who may enrol and who may operate.

use std::time::Duration;

use hostler_core::{
    identity::PrincipalName,
    pki::Fingerprint,
    token::{Token, TokenSecret},
};
use hostler_proto::{
    name::HostName,
    wire::{
        self, AddOperatorReply, AddOperatorRequest, CreateTokenReply, CreateTokenRequest,
        ErrorCode, Failure, OperatorRecord, OperatorsReply, OperatorsRequest, RenewOperatorReply,
        RenewOperatorRequest, RevokeOperatorRequest, RevokeReply, RevokeTokenRequest, TokenRecord,
        TokensReply, TokensRequest, WhoAmIRequest, access_server::Access,
    },
};
use rand::{TryRngCore, rngs::OsRng};
use tonic::{Request, Response, Status};

use super::{
    Api, caller,
    credentials::{NewOperator, add_operator, renew_operator},
    fleet::check_label,
    operations::invalid,
    unstored,
};
use crate::{
    authz::{Operations, Role, What},
    selector::Selector,
    store::{OperatorRow, TokenRow},
};

/// A token that lives longer is a password.
const LONGEST_TOKEN_S: u32 = 30 * 86_400;
const TOKEN_S: u32 = 900;
/// An answer that is written has left by then.
const ANSWERED: Duration = Duration::from_millis(300);

fn operator_record(row: OperatorRow) -> OperatorRecord {
    OperatorRecord {
        name: row.name.to_string(),
        role: wire::Role::from(row.role).into(),
        on: row.scope.map(|s| s.to_string()).unwrap_or_default(),
        operations: row.operations.to_string(),
        created_us: row.created_us,
        certificate_until_us: row.certificate_until_us,
        revoked: row.revoked_us.is_some(),
    }
}

#[tonic::async_trait]
impl Access for Api {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenReply>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        self.authorise(&caller, What::Administer, None, "token.create", &request.host).await?;
        if !request.host.is_empty() {
            request.host.parse::<HostName>().map_err(invalid)?;
        } else if request.replace {
            return Err(invalid("--replace needs --host: it names the host that may be replaced"));
        }
        for (key, value) in &request.labels {
            check_label(key, value)?;
        }
        let ttl = if request.ttl_s == 0 { TOKEN_S } else { request.ttl_s };
        let uses = request.uses.max(1);
        if ttl > LONGEST_TOKEN_S {
            return Err(invalid("--ttl: a token may live for 30 days at most"));
        }
        if uses > 1 && !request.host.is_empty() {
            return Err(invalid("--uses: a token for one host can be used once"));
        }
        let mut rng = OsRng.unwrap_err();
        let secret = TokenSecret::new(&mut rng);
        let id: u32 = rand::Rng::random(&mut rng);
        let now = self.0.clock.now().as_microsecond();
        let row = TokenRow {
            id: format!("{id:08x}"),
            host: request.host,
            labels: request.labels.into_iter().collect(),
            created_us: now,
            expires_us: now + i64::from(ttl) * 1_000_000,
            uses_left: uses.into(),
            created_by: caller.name.to_string(),
            replace: request.replace,
        };
        let detail = serde_json::json!({
            "host": row.host, "labels": row.labels, "ttl_s": ttl, "uses": uses,
            "replace": row.replace,
        });
        let (row, hash) = (&row, secret.hash());
        let create = async { self.0.store.create_token(row, &hash).await.map_err(unstored) };
        self.change(&caller, "token.create", &row.id, detail, create).await?;
        let authority = Fingerprint::of(self.0.vault.authority.certificate());
        let token = Token { id: row.id.clone(), secret, authority };
        Ok(Response::new(CreateTokenReply {
            id: row.id.clone(),
            token: token.reveal(),
            expires_us: row.expires_us,
        }))
    }

    async fn tokens(
        &self,
        request: Request<TokensRequest>,
    ) -> Result<Response<TokensReply>, Status> {
        let caller = caller(&request)?;
        self.authorise(&caller, What::Administer, None, "token.list", "").await?;
        self.looked(&caller, "token.list", "");
        let now = self.0.clock.now().as_microsecond();
        let tokens = self.0.store.tokens(now).await.map_err(unstored)?;
        let record = |t: TokenRow| TokenRecord {
            id: t.id,
            host: t.host,
            labels: t.labels.into_iter().collect(),
            created_us: t.created_us,
            expires_us: t.expires_us,
            uses_left: u32::try_from(t.uses_left).unwrap_or(0),
            created_by: t.created_by,
            replace: t.replace,
        };
        Ok(Response::new(TokensReply { tokens: tokens.into_iter().map(record).collect() }))
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeReply>, Status> {
        let caller = caller(&request)?;
        let id = request.into_inner().id;
        self.authorise(&caller, What::Administer, None, "token.revoke", &id).await?;
        let revoke = async {
            if self.0.store.revoke_token(&id).await.map_err(unstored)? {
                return Ok(());
            }
            Err(Failure::new(ErrorCode::NotFound, format!("there is no usable token {id}"))
                .hint("list them with: hostlerctl token list")
                .into())
        };
        self.change(&caller, "token.revoke", &id, serde_json::json!({}), revoke).await?;
        Ok(Response::new(RevokeReply { cut: 0 }))
    }

    async fn add_operator(
        &self,
        request: Request<AddOperatorRequest>,
    ) -> Result<Response<AddOperatorReply>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        self.authorise(&caller, What::Administer, None, "operator.add", &request.name).await?;
        let name: PrincipalName = request.name.parse().map_err(invalid)?;
        let role = Role::try_from(request.role()).map_err(invalid)?;
        let scope = match request.on.as_str() {
            "" | "all" => None,
            on => Some(on.parse::<Selector>().map_err(invalid)?),
        };
        if scope.as_ref().is_some_and(Selector::is_of_the_moment) {
            let no = Selector::OF_THE_MOMENT;
            return Err(invalid(format!(
                "what an operator may do does not depend on how hosts are: {no}"
            )));
        }
        let operations: Operations = request.operations.parse().map_err(invalid)?;
        if let Some(pattern) = operations.without_any() {
            return Err(invalid(format!("there is no operation \"{pattern}\"")));
        }
        if role == Role::Admin && (scope.is_some() || !request.operations.is_empty()) {
            return Err(invalid(
                "an admin can change who may do what, and is admin of the whole fleet: it is not limited",
            ));
        }
        let days = match request.days {
            0 => None,
            days => Some(Duration::from_secs(u64::from(days.min(3650)) * 86_400)),
        };
        let life_s = days.unwrap_or(self.0.config.operator_certificate).as_secs();
        let detail = serde_json::json!({ "role": role.to_string(), "on": request.on, "operations": request.operations, "life_s": life_s });
        let new = NewOperator { name, role, scope, operations, life: days, replace: false };
        let add = add_operator(&self.0, new);
        let added = self.change(&caller, "operator.add", &request.name, detail, add).await?;
        Ok(Response::new(added))
    }

    async fn operators(
        &self,
        request: Request<OperatorsRequest>,
    ) -> Result<Response<OperatorsReply>, Status> {
        let caller = caller(&request)?;
        self.look(&caller, "operator.list", "").await?;
        let operators = self.0.store.operators().await.map_err(unstored)?;
        let operators = operators.into_iter().map(operator_record).collect();
        Ok(Response::new(OperatorsReply { operators }))
    }

    async fn revoke_operator(
        &self,
        request: Request<RevokeOperatorRequest>,
    ) -> Result<Response<RevokeReply>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        self.authorise(&caller, What::Administer, None, "operator.revoke", &request.name).await?;
        let name: PrincipalName = request.name.parse().map_err(invalid)?;
        let detail = serde_json::json!({ "reason": request.reason });
        let revoke = async {
            let now = self.0.clock.now().as_microsecond();
            // Stored first: a session that is made in between finds the operator revoked. One that is
            // there is cut even when the operator was revoked before.
            let cut = || {
                self.0.runs.stop_all_of(&name);
                match caller.name == name {
                    true => self.leave(name.clone()),
                    false => self.0.sessions.cut(&name),
                }
            };
            // Also one whose row cannot be read.
            if self.0.store.revoke_operator(&name, now).await.map_err(unstored)? {
                return Ok(cut());
            }
            match self.0.store.operator(&name).await.map_err(unstored)? {
                Some(row) if row.revoked_us.is_some() => drop(cut()),
                Some(_) => return Err(last_admin(&name)),
                None => {}
            }
            let message = format!("there is no operator {name}, or it is revoked");
            Err(Failure::new(ErrorCode::NotFound, message)
                .hint("list them with: hostlerctl operator list")
                .into())
        };
        let cut = self.change(&caller, "operator.revoke", &request.name, detail, revoke).await?;
        Ok(Response::new(RevokeReply { cut }))
    }

    async fn renew_operator(
        &self,
        request: Request<RenewOperatorRequest>,
    ) -> Result<Response<RenewOperatorReply>, Status> {
        let caller = caller(&request)?;
        let renew = renew_operator(&self.0, &caller.name, &request.get_ref().request);
        let detail = serde_json::json!({});
        let renewed =
            self.change(&caller, "operator.renew", &caller.name.to_string(), detail, renew).await?;
        Ok(Response::new(renewed))
    }

    async fn who_am_i(
        &self,
        request: Request<WhoAmIRequest>,
    ) -> Result<Response<OperatorRecord>, Status> {
        let caller = caller(&request)?;
        self.looked(&caller, "operator.whoami", "");
        let row = self.0.store.operator(&caller.name).await.map_err(unstored)?;
        let row = row.ok_or_else(|| Status::not_found("the operator is gone"))?;
        Ok(Response::new(operator_record(row)))
    }
}

impl Api {
    /// Ends the sessions of an operator who has just revoked itself, when it has the answer.
    fn leave(&self, name: PrincipalName) -> u32 {
        let sessions = self.0.sessions.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ANSWERED).await;
            sessions.cut(&name)
        });
        1
    }
}

fn last_admin(name: &PrincipalName) -> Status {
    let message = format!("{name} is the last admin: nobody could add another");
    Failure::new(ErrorCode::PreconditionFailed, message)
        .hint("add another one first: hostlerctl operator add NAME --role admin")
        .into()
}
