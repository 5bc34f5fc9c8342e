//! The part of `AgentService` that is about join tokens.

use std::time::Duration;

use postrider_domain::audit::Entry;
use postrider_domain::id::{PoolName, TokenId};
use postrider_domain::join::Join;
use postrider_domain::token::{Kind, SECRET_BYTES, Token};
use postrider_proto::{time, v1};
use tonic::Status;

use super::{Api, page, status};
use crate::store::JoinTokenRow;

const LIST: &str = "join_tokens";
const MAX_NAME: usize = 200;
const MAX_USES: u32 = 10_000;
const DEFAULT_LIFETIME: Duration = Duration::from_secs(15 * 60);
const MIN_LIFETIME: Duration = Duration::from_secs(60);
const MAX_LIFETIME: Duration = Duration::from_secs(366 * 86_400);

impl Api {
    pub(super) async fn make_join_token(
        &self,
        request: v1::CreateJoinTokenRequest,
    ) -> Result<v1::CreateJoinTokenResponse, Status> {
        let now = self.clock.wall();
        let id = TokenId::new(now, rand::random());
        let token = Token::new(Kind::Join, id, rand::random::<[u8; SECRET_BYTES]>());
        let row = new_row(&request, &token)?;
        self.check_end(Some(row.expires))?;
        let Some((host, port)) = &self.agent_address else {
            return Err(status::precondition(
                "AGENT_ADDRESS_UNKNOWN",
                "the control plane listens on every address for agents and does not know by which they reach it; set \
                 agent_address in its settings",
            ));
        };
        let pins = self.authorities.trusted().iter().map(|authority| authority.pin).collect();
        let join = Join::new(host, *port, token, pins)
            .map_err(|error| status::precondition("AGENT_ADDRESS_UNKNOWN", error.to_string()))?;
        let detail = format!("pool {}, {} uses until {}", row.pool, row.max_uses, row.expires);
        let audit = Entry { detail, ..self.entry("CreateJoinToken", None, row.id) };
        let (made, pool) = (write(&row), row.pool.clone());
        self.identities.add_join_token(row, audit).await.map_err(|error| status::store(&error))?;
        Ok(v1::CreateJoinTokenResponse {
            join_token: Some(made),
            join: join.expose_text().to_string(),
            warnings: self.warnings_of_pool(&pool),
        })
    }

    pub(super) fn page_of_join_tokens(
        &self,
        request: &v1::ListJoinTokensRequest,
    ) -> Result<v1::ListJoinTokensResponse, Status> {
        let size = page::size(request.page_size)?;
        let after: Option<TokenId> = page::read(LIST, &request.page_token)?;
        let rows = self.identities.page_of_join_tokens(after, size + 1);
        let (join_tokens, next_page_token) =
            page::fill(LIST, rows, size, |row| row.id.to_string(), |row| write(&row));
        Ok(v1::ListJoinTokensResponse { join_tokens, next_page_token })
    }

    pub(super) async fn end_join_token(&self, id: &str) -> Result<v1::RevokeJoinTokenResponse, Status> {
        let token: TokenId = status::parse("join_token", id)?;
        let audit = self.entry("RevokeJoinToken", None, token);
        let found = self.identities.revoke_join_token(token, audit).await;
        match found.map_err(|error| status::store(&error))? {
            true => Ok(v1::RevokeJoinTokenResponse {}),
            false => Err(status::not_found("join token", id)),
        }
    }
}

fn new_row(request: &v1::CreateJoinTokenRequest, token: &Token) -> Result<JoinTokenRow, Status> {
    if request.display_name.chars().count() > MAX_NAME {
        return Err(status::invalid_field("display_name", "must have at most 200 characters"));
    }
    let pool = match request.pool.as_str() {
        "" => PoolName::default_pool(),
        pool => status::parse("pool", pool)?,
    };
    let max_uses = request.max_uses.max(1);
    if max_uses > MAX_USES {
        return Err(status::invalid_field("max_uses", "must be 1 to 10000"));
    }
    let lifetime = request.lifetime.as_ref().map(|lifetime| time::read_duration("lifetime", lifetime));
    let lifetime = lifetime.transpose().map_err(|violation| status::invalid(&[violation]))?;
    let lifetime = lifetime.unwrap_or(DEFAULT_LIFETIME);
    if !(MIN_LIFETIME..=MAX_LIFETIME).contains(&lifetime) {
        return Err(status::invalid_field("lifetime", "must be 1 minute to 366 days, or unset"));
    }
    Ok(JoinTokenRow {
        id: token.id(),
        digest: token.digest(),
        display_name: request.display_name.clone(),
        pool,
        max_uses,
        uses: 0,
        expires: token.id().created() + lifetime,
    })
}

fn write(row: &JoinTokenRow) -> v1::JoinToken {
    v1::JoinToken {
        id: row.id.to_string(),
        display_name: row.display_name.clone(),
        pool: row.pool.to_string(),
        max_uses: row.max_uses,
        uses: row.uses,
        create_time: Some(time::write(row.id.created())),
        expire_time: Some(time::write(row.expires)),
    }
}
