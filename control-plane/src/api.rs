//! The public API: `postrider.v1`. Handlers check what was sent, call one method of the store, and say what came of it.

mod access;
mod agents;
mod audit;
mod authorities;
mod backups;
mod changes;
mod deliveries;
mod diagnoses;
mod event_types;
mod events;
mod explain;
mod failures;
mod gate;
mod join_tokens;
mod operations;
mod page;
mod pools;
mod requests;
mod secrets;
mod signing_keys;
pub(crate) mod status;
mod streams;
mod subscriptions;
mod system;
mod tenants;
mod test_posts;
mod tokens;
mod under_way;
mod views;

use std::path::PathBuf;
use std::sync::Arc;

use postrider_domain::audit::Entry;
use postrider_domain::id::{SubscriptionId, TenantId};
use postrider_telemetry::traces::Traces;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

pub use self::access::Caller;
pub use self::gate::Gate;
pub use self::under_way::MAX_OF_TOKEN;
use crate::agents::Agents;
use crate::authority::Authorities;
use crate::backups::Backups;
use crate::clock::Clock;
use crate::diagnoses::Diagnoses;
use crate::disabler::Changes;
use crate::emit::Emitter;
use crate::identities::Identities;
use crate::judging::Judge;
use crate::key_uses::KeyUses;
use crate::lanes::Lanes;
use crate::metrics::upkeep::Watched;
use crate::operations::Operations;
use crate::pools::Pools;
use crate::reads::{Reads, Turn};
use crate::registry::{Registry, TenantStatus};
use crate::secrets::rewrap::Rewrapper;
use crate::secrets::{KeyedSubscription, Sealer};
use crate::store::Store;
use crate::tokens::Tokens;
use crate::watch::Updates;
use crate::watchers::Watchers;

/// What handlers use. Every service of the API is implemented on it.
#[derive(Clone)]
pub struct Api {
    /// What is remembered.
    pub store: Arc<dyn Store>,
    /// Seals what is secret before the store sees it.
    pub sealer: Sealer,
    /// Tenants and subscriptions in memory.
    pub registry: Arc<Registry>,
    /// What judges events before that, by schemas and filters.
    pub judge: Judge,
    /// Where events are handed in.
    pub emitter: Emitter,
    /// The schedule.
    pub lanes: Lanes,
    /// Where changes of subscriptions go on.
    pub changes: Changes,
    /// Live updates.
    pub updates: Updates,
    /// Turns of those who read.
    pub reads: Reads,
    /// How many streams watch.
    pub watchers: Arc<Watchers>,
    /// How large things are, and when certificates end.
    pub watched: Arc<Watched>,
    /// Agents.
    pub agents: Arc<Agents>,
    /// Pools that were created.
    pub pools: Arc<Pools>,
    /// Looks at endpoints.
    pub diagnoses: Arc<Diagnoses>,
    /// By which name endpoints are asked for their consent.
    pub webhook_origin: Option<String>,
    /// How signing keys were used.
    pub uses: Arc<KeyUses>,
    /// Who may call.
    pub tokens: Arc<Tokens>,
    /// Who may become an agent, and who is one.
    pub identities: Arc<Identities>,
    /// Who vouches for agents.
    pub authorities: Arc<Authorities>,
    /// By which host and port agents reach theirs.
    pub agent_address: Option<(String, u16)>,
    /// Seals secrets anew.
    pub rewrapper: Arc<Rewrapper>,
    /// Work on many things.
    pub operations: Arc<Operations>,
    /// Copies of the store.
    pub backups: Arc<Backups>,
    /// Who calls. Handlers work on the copy that `Api::call` gives them: the original is nobody's.
    pub caller: Caller,
    /// Where sampled events are told.
    pub traces: Traces,
    /// Where the head of the audit log is exported.
    pub audit_head_file: Option<PathBuf>,
    /// Time.
    pub clock: Clock,
    /// How many bytes an event's data may have.
    pub max_event_bytes: usize,
    /// Cancelled when the program stops: streams end, and no event is accepted.
    pub stopping: CancellationToken,
}

impl Api {
    /// What was sent, and the API as the caller sees it.
    fn call<T>(&self, mut request: Request<T>) -> (Self, T) {
        let caller = request.extensions_mut().remove().unwrap_or_else(Caller::nobody);
        (Self { caller, ..self.clone() }, request.into_inner())
    }

    /// The API as Postrider itself uses it.
    #[must_use]
    pub fn by_itself(&self) -> Self {
        Self { caller: Caller::postrider(), ..self.clone() }
    }

    /// The caller's turn to read, for calls that read more than once.
    async fn turn(&self) -> Result<Turn, Status> {
        self.reads.turn(&self.caller.reader()).await.map_err(status::busy)
    }

    /// Tells the audit log what changes no row.
    async fn record(&self, entry: Entry) -> Result<(), Status> {
        self.store.put_audit_entry(entry).await.map_err(|error| status::store(&error))
    }

    /// What the audit log is told of a change: this call, of this thing.
    fn entry(&self, action: &str, tenant: Option<&TenantId>, target: impl ToString) -> Entry {
        Entry {
            time: self.clock.wall(),
            actor: self.caller.actor.to_string(),
            address: self.caller.address.map(|address| address.to_string()).unwrap_or_default(),
            action: action.to_owned(),
            target: target.to_string(),
            tenant: tenant.cloned(),
            request_id: String::new(),
            detail: String::new(),
        }
    }

    /// A tenant that exists, for the caller. The scope is judged first: another's tenant is not even looked for, so that
    /// no time tells it from one that never was.
    fn tenant(&self, id: &str) -> Result<TenantId, Status> {
        let tenant: TenantId = status::parse("tenant", id)?;
        self.check_tenant(&tenant)?;
        Ok(tenant)
    }

    fn check_tenant(&self, tenant: &TenantId) -> Result<(), Status> {
        if !self.caller.scope.sees(tenant) {
            return Err(status::not_found("tenant", tenant.as_str()));
        }
        match self.registry.tenant_status(tenant) {
            TenantStatus::Active => Ok(()),
            TenantStatus::Deleting => Err(status::deleting(tenant)),
            TenantStatus::Unknown => Err(status::not_found("tenant", tenant.as_str())),
        }
    }

    /// Refuses what nobody may do with Postrider's own tenant.
    fn check_not_own(tenant: &TenantId) -> Result<(), Status> {
        if !tenant.is_postrider() {
            return Ok(());
        }
        let problem = "the tenant postrider is reserved for operational events: only Postrider creates its events and event types, and it cannot be deleted; choose another tenant";
        Err(status::precondition("RESERVED_TENANT", problem))
    }

    /// A subscription of a tenant.
    fn subscription(&self, tenant: &str, id: &str) -> Result<Arc<KeyedSubscription>, Status> {
        let tenant = self.tenant(tenant)?;
        let subscription: SubscriptionId = status::parse("subscription", id)?;
        let row = self.registry.get_of(&tenant, subscription);
        row.ok_or_else(|| status::not_found("subscription", id))
    }
}
