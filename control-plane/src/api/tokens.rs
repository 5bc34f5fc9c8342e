//! `TokenService`.

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::access::{Role, Scope};
use postrider_domain::audit::Entry;
use postrider_domain::id::TokenId;
use postrider_domain::time::Timestamp;
use postrider_domain::token::{Kind, SECRET_BYTES, Token};
use postrider_proto::time;
use postrider_proto::v1;
use postrider_proto::v1::token_service_server::TokenService;
use tonic::{Request, Response, Status};

use super::{Api, page, status};
use crate::store::TokenRow;

const LIST: &str = "tokens";
const MAX_NAME: usize = 200;
/// Tokens that one tenant, or nobody in particular, may have: every one is kept in memory.
const MAX_TOKENS: usize = 1000;
/// How long a token's line of parents may be.
const MAX_ANCESTORS: usize = 16;
const MIN_LIFETIME: Duration = Duration::from_secs(1);
const MAX_LIFETIME: Duration = Duration::from_secs(3653 * 86_400);

#[tonic::async_trait]
impl TokenService for Api {
    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let (api, request) = self.call(request);
        // A tenant must not go while a token for it comes.
        let _change = api.registry.change().await;
        let id = TokenId::new(api.clock.wall(), rand::random());
        let token = Token::new(Kind::Api, id, rand::random::<[u8; SECRET_BYTES]>());
        let row = api.new_token(&request, &token)?;
        let detail = match row.scope.tenant() {
            Some(tenant) => format!("{}, confined to {tenant}", row.role.as_str()),
            None => row.role.as_str().to_owned(),
        };
        let audit = Entry { detail, ..api.entry("CreateToken", row.scope.tenant(), row.id) };
        let made = write(&row);
        api.tokens.add(row, audit).await.map_err(|error| status::store(&error))?;
        Ok(Response::new(v1::CreateTokenResponse {
            token: Some(made),
            secret: token.expose_text().to_string(),
        }))
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let (api, request) = self.call(request);
        let size = page::size(request.page_size)?;
        let after: Option<TokenId> = page::read(LIST, &request.page_token)?;
        let rows = api.tokens.page(after, size + 1, |row| api.caller.scope.covers(&row.scope));
        let (tokens, next_page_token) =
            page::fill(LIST, rows, size, |row| row.id.to_string(), |row| write(&row));
        Ok(Response::new(v1::ListTokensResponse { tokens, next_page_token }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let (api, request) = self.call(request);
        let _change = api.registry.change().await;
        let id: TokenId = status::parse("token", &request.token)?;
        let row = api.token(&request.token);
        let mut children = api.tokens.descendants(id);
        children.retain(|child| api.caller.scope.covers(&child.scope));
        if !request.with_children || children.is_empty() {
            row.as_ref().map_err(Clone::clone)?;
        }
        let ids = children.iter().map(|child| child.id.to_string()).collect();
        if request.with_children {
            // The youngest first, so that what a failure leaves is still found by the token that is asked about.
            for child in &children {
                api.revoke_one(child, &format!(", a descendant of {id}")).await?;
            }
        }
        if let Ok(row) = row {
            api.revoke_one(&row, "").await?;
        }
        Ok(Response::new(match request.with_children {
            true => v1::RevokeTokenResponse { revoked_children: ids, ..Default::default() },
            false => v1::RevokeTokenResponse { remaining_children: ids, ..Default::default() },
        }))
    }
}

impl Api {
    /// A token that the caller may see.
    fn token(&self, id: &str) -> Result<Arc<TokenRow>, Status> {
        let parsed: TokenId = status::parse("token", id)?;
        let row = self.tokens.get(parsed).filter(|row| self.caller.scope.covers(&row.scope));
        row.ok_or_else(|| status::not_found("token", id))
    }

    async fn revoke_one(&self, row: &TokenRow, why: &str) -> Result<(), Status> {
        let detail = format!("{} '{}'{why}", row.role.as_str(), row.display_name);
        let audit = Entry { detail, ..self.entry("RevokeToken", row.scope.tenant(), row.id) };
        self.tokens.revoke(row.id, audit).await.map_err(|error| status::store(&error))
    }

    /// The token that the caller calls with; `None` when it calls without one, as on a loopback port for development.
    ///
    /// # Errors
    /// When it was revoked since the call was let in.
    fn own_token(&self) -> Result<Option<Arc<TokenRow>>, Status> {
        let Ok(id) = self.caller.actor.parse::<TokenId>() else { return Ok(None) };
        self.tokens.get(id).map(Some).ok_or_else(status::unknown_token)
    }

    /// When something ends that the caller makes: what a token makes does not outlive it.
    pub(super) fn check_end(&self, ends: Option<Timestamp>) -> Result<(), Status> {
        let Some(own) = self.own_token()?.and_then(|own| own.expires) else { return Ok(()) };
        if ends.is_some_and(|ends| ends <= own) {
            return Ok(());
        }
        let left = own.since(self.clock.wall()).as_secs();
        let problem = format!(
            "must end before the token that makes it, which ends at {own}; give at most {left}s, or use a token that \
             lives longer"
        );
        Err(status::invalid_field("lifetime", problem))
    }

    /// The ancestors of a token that the caller makes.
    fn line(&self) -> Result<Vec<TokenId>, Status> {
        let Some(own) = self.own_token()? else { return Ok(Vec::new()) };
        if own.ancestors.len() >= MAX_ANCESTORS {
            let message = "the token that you use was made by a token, and that by another, 16 times; make the new one with \
                           an older token";
            return Err(status::precondition("TOKEN_LINE_TOO_LONG", message));
        }
        Ok(own.ancestors.iter().copied().chain([own.id]).collect())
    }

    /// The row of a new token, as the request wants it.
    fn new_token(&self, request: &v1::CreateTokenRequest, token: &Token) -> Result<TokenRow, Status> {
        if request.display_name.chars().count() > MAX_NAME {
            return Err(status::invalid_field("display_name", "must have at most 200 characters"));
        }
        let role = read_role(request.role())?;
        let scope = match request.tenant.as_str() {
            "" => Scope::Everything,
            tenant => Scope::Tenant(self.tenant(tenant)?),
        };
        if !self.caller.scope.covers(&scope) {
            return Err(status::more_than_own());
        }
        if self.tokens.list().iter().filter(|row| row.scope == scope).count() >= MAX_TOKENS {
            let message = "there are 1000 tokens of that scope; revoke those that nobody uses";
            return Err(status::precondition("TOO_MANY_TOKENS", message));
        }
        let lifetime = request.lifetime.as_ref().map(|lifetime| time::read_duration("lifetime", lifetime));
        let lifetime = lifetime.transpose().map_err(|violation| status::invalid(&[violation]))?;
        if lifetime.is_some_and(|lifetime| !(MIN_LIFETIME..=MAX_LIFETIME).contains(&lifetime)) {
            return Err(status::invalid_field("lifetime", "must be 1 second to 10 years, or unset"));
        }
        let expires = lifetime.map(|lifetime| token.id().created() + lifetime);
        self.check_end(expires)?;
        Ok(TokenRow {
            ancestors: self.line()?,
            id: token.id(),
            digest: token.digest(),
            display_name: request.display_name.clone(),
            role,
            scope,
            expires,
            last_used: None,
        })
    }
}

fn read_role(role: v1::Role) -> Result<Role, Status> {
    match role {
        v1::Role::Admin => Ok(Role::Admin),
        v1::Role::Operator => Ok(Role::Operator),
        v1::Role::Emitter => Ok(Role::Emitter),
        v1::Role::Viewer => Ok(Role::Viewer),
        v1::Role::Unspecified => Err(status::invalid_field(
            "role",
            "must be ROLE_ADMIN, ROLE_OPERATOR, ROLE_EMITTER or ROLE_VIEWER",
        )),
    }
}

fn write(row: &TokenRow) -> v1::Token {
    let role = match row.role {
        Role::Admin => v1::Role::Admin,
        Role::Operator => v1::Role::Operator,
        Role::Emitter => v1::Role::Emitter,
        Role::Viewer => v1::Role::Viewer,
    };
    v1::Token {
        id: row.id.to_string(),
        display_name: row.display_name.clone(),
        role: role.into(),
        tenant: row.scope.tenant().map(ToString::to_string).unwrap_or_default(),
        create_time: Some(time::write(row.id.created())),
        expire_time: row.expires.map(time::write),
        last_use_time: row.last_used.map(time::write),
        parent: row.ancestors.last().map(ToString::to_string).unwrap_or_default(),
    }
}
