//! Compiled schemas: made when an event needs them, on the threads of [`crate::compute`], and kept within a bound of
//! memory (`schemas::cache`). Nothing is compiled at the start, and the texts stay in the store.

mod cache;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::HashMap;
use postrider_domain::cost::{Budget, Stopped};
use postrider_domain::event::EventTypeName;
use postrider_domain::id::TenantId;
use postrider_domain::schema::{MAX_MEMORY, Schema, Unusable};
use tokio::sync::Mutex as AsyncMutex;
use tracing::warn;

use self::cache::Cache;
use crate::compute::{Compute, Kind, Refused, Slice, Work};
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};

/// Bytes that compiled schemas may take.
const MOST: usize = 64 * 1024 * 1024;
/// What remembering that a schema cannot be used takes.
const UNUSABLE: usize = 1024;

/// A compiled schema, or why it cannot be used.
pub type Known = Result<Schema, Arc<str>>;

/// Why there is no schema now.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SchemaError {
    /// The store failed.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// It was not compiled now.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Compiling it was called off, since it took too long.
    #[error("compiling a schema has taken too long")]
    TooLong,
}

/// Which schema: that of a type since it was last changed.
#[derive(Clone, Debug)]
pub struct Wanted<'w> {
    /// Whose it is.
    pub tenant: &'w TenantId,
    /// Of which type.
    pub name: &'w EventTypeName,
    /// The number that the type got when it was last changed.
    pub number: u64,
}

/// See the [module](self).
pub struct Schemas {
    cache: Mutex<Cache<TenantId, u64, Known>>,
    /// Those that are being compiled: whoever wants one too waits for it.
    compiling: Mutex<HashMap<u64, Arc<AsyncMutex<()>>>>,
    store: Arc<dyn Store>,
    compute: Compute,
    metrics: Arc<Metrics>,
}

impl Schemas {
    /// None yet.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, compute: Compute, metrics: Arc<Metrics>) -> Self {
        let cache = Mutex::new(Cache::new(MOST, MAX_MEMORY));
        Self { cache, compiling: Mutex::default(), store, compute, metrics }
    }

    /// A type's schema, compiled now unless it is there.
    ///
    /// # Errors
    /// Why it cannot be known now.
    pub async fn get(&self, wanted: Wanted<'_>) -> Result<Known, SchemaError> {
        if let Some(known) = self.known(&wanted) {
            return Ok(known);
        }
        let turn = self.turn(wanted.number);
        let _one_compiles = turn.lock().await;
        if let Some(known) = self.known(&wanted) {
            return Ok(known);
        }
        let compiled = self.make(&wanted).await;
        self.compiling.lock().unwrap_or_else(PoisonError::into_inner).remove(&wanted.number);
        let known = compiled?;
        if let Err(problem) = &known {
            warn!(
                tenant = %wanted.tenant,
                event_type = %wanted.name,
                %problem,
                "a stored schema cannot be used: events of the type are refused or accepted with a warning until it is updated"
            );
            self.metrics.compute.refused("schema_unusable");
        }
        self.put(wanted.tenant, wanted.number, known.clone());
        Ok(known)
    }

    /// A schema that was just compiled, since it was saved.
    pub fn put(&self, tenant: &TenantId, number: u64, known: Known) {
        let bytes = known.as_ref().map_or(UNUSABLE, Schema::memory);
        let mut cache = self.cache();
        cache.put(tenant, number, known, bytes);
        self.metrics.compute.cached(cache.bytes());
    }

    /// A type was changed or deleted: its former schema is not wanted any more.
    pub fn forget(&self, tenant: &TenantId, number: u64) {
        let mut cache = self.cache();
        cache.remove(tenant, &number);
        self.metrics.compute.cached(cache.bytes());
    }

    /// A tenant was deleted.
    pub fn forget_all(&self, tenant: &TenantId) {
        let mut cache = self.cache();
        cache.remove_all(tenant);
        self.metrics.compute.cached(cache.bytes());
    }

    /// Compiles a schema that is to be saved, and says what an example does not follow of it.
    ///
    /// # Errors
    /// Why that was not done.
    pub async fn compile(
        &self,
        tenant: &TenantId,
        text: String,
        example: String,
    ) -> Result<Result<Compiled, String>, SchemaError> {
        let bytes = text.len() + example.len();
        match self.compute.run(tenant, bytes, Compile { text, example }).await? {
            Ok(compiled) => Ok(Ok(compiled)),
            Err(Unusable::Refused(problem)) => Ok(Err(problem)),
            Err(Unusable::Stopped(Stopped::CalledOff)) => Err(SchemaError::TooLong),
            Err(Unusable::Stopped(_)) => {
                Ok(Err("costs too much to compile; write a smaller one, with fewer and smaller patterns"
                    .to_owned()))
            }
        }
    }

    async fn make(&self, wanted: &Wanted<'_>) -> Result<Known, SchemaError> {
        let stored = self.store.event_type(wanted.tenant, wanted.name).await;
        let stored = stored.map_err(|error| SchemaError::Store(Arc::new(error)))?;
        // Without one everything is allowed: the type was changed a moment ago.
        let text = stored.map(|stored| stored.schema).filter(|text| !text.is_empty());
        let text = text.unwrap_or_else(|| "{}".to_owned());
        let compiled = self.compile(wanted.tenant, text, String::new()).await?;
        Ok(compiled.map(|compiled| compiled.schema).map_err(Arc::from))
    }

    fn known(&self, wanted: &Wanted<'_>) -> Option<Known> {
        self.cache().get(wanted.tenant, &wanted.number)
    }

    fn turn(&self, number: u64) -> Arc<AsyncMutex<()>> {
        let mut compiling = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        // Those whose callers have all gone.
        compiling.retain(|_, turn| Arc::strong_count(turn) > 1);
        compiling.entry(number).or_default().clone()
    }

    fn cache(&self) -> MutexGuard<'_, Cache<TenantId, u64, Known>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A schema that is to be saved.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The schema.
    pub schema: Schema,
    /// What the example does not follow of it.
    pub problems: Vec<String>,
}

struct Compile {
    text: String,
    /// Empty when there is none.
    example: String,
}

impl Work for Compile {
    type Output = Result<Compiled, Unusable>;
    const KIND: Kind = Kind::Compile;

    fn step(&mut self, _: &Slice, budget: &mut Budget) -> Option<Self::Output> {
        Some(self.compile(budget))
    }
}

impl Compile {
    fn compile(&self, budget: &mut Budget) -> Result<Compiled, Unusable> {
        let schema = Schema::compile(&self.text, budget)?;
        let problems = match self.example.as_str() {
            "" => Vec::new(),
            example => match schema.problems(example.as_bytes(), budget) {
                Ok(problems) => problems,
                Err(Stopped::TooCostly | Stopped::UsedUp) => vec!["its validation costs too much".to_owned()],
                Err(stopped) => return Err(stopped.into()),
            },
        };
        Ok(Compiled { schema, problems })
    }
}
