//! Judging events that are emitted: by the schemas of their types, and by the filters of those who may want them.
//!
//! What takes next to no time is done at once; everything else on the threads of [`crate::compute`], event after event,
//! within one budget for the whole call.

use std::sync::Arc;

use bytes::Bytes;
use postrider_domain::catalogue::{self, Judged, Refusal, Warning};
use postrider_domain::cost::{Budget, Stopped};
use postrider_domain::event::{Attributes, EventTypeName};
use postrider_domain::filter::Facts;
use postrider_domain::id::{SubscriptionId, TenantId};
use postrider_domain::time::{EventTime, Timestamp};

use crate::compute::{CALL_COST, Compute, Kind, Refused, Slice, Work};
use crate::registry::{Look, Registry};
use crate::schemas::{Known, SchemaError, Schemas, Wanted};

/// What may be done at once, in units of about a nanosecond.
const AT_ONCE: u64 = 1_000_000;

/// An event that is to be judged.
pub struct Subject {
    /// Its type.
    pub name: EventTypeName,
    /// When it happened.
    pub timestamp: EventTime,
    /// Its attributes.
    pub attributes: Attributes,
    /// Its data: JSON that was checked.
    pub data: Bytes,
}

/// What becomes of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What its emitter is told.
    pub warnings: Vec<Warning>,
    /// Whom it is owed to; nothing when the tenant is gone.
    pub subscriptions: Option<Vec<SubscriptionId>>,
}

/// Events with what became of each.
pub type Verdicts = Vec<(Subject, Result<Verdict, Refusal>)>;

/// Why events were not judged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JudgeError {
    /// A schema cannot be known now.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// There is no room.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It costs more than one call may.
    #[error(
        "to judge the call's events by schemas and filters costs more than one call may; send fewer events at once"
    )]
    TooCostly,
}

/// Judges events of one tenant.
#[derive(Clone)]
pub struct Judge {
    registry: Arc<Registry>,
    schemas: Arc<Schemas>,
    compute: Compute,
}

impl Judge {
    /// By what is known to these.
    #[must_use]
    pub fn new(registry: Arc<Registry>, schemas: Arc<Schemas>, compute: Compute) -> Self {
        Self { registry, schemas, compute }
    }

    /// The schemas by which events are judged.
    #[must_use]
    pub fn schemas(&self) -> &Schemas {
        &self.schemas
    }

    /// The threads on which that is done.
    #[must_use]
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// Judges events.
    ///
    /// # Errors
    /// Why none of them was judged.
    pub async fn judge(
        &self,
        tenant: &TenantId,
        subjects: Vec<Subject>,
        now: Timestamp,
    ) -> Result<Verdicts, JudgeError> {
        let bytes = subjects.iter().map(Subject::size).sum();
        let mut cost = 0_u64;
        let mut cases = Vec::with_capacity(subjects.len());
        for subject in subjects {
            let look = self.registry.catalogues.look(tenant, &subject.name);
            let schema = self.schema(tenant, &subject.name, &look).await?;
            // A schema is never asked here, however little it would take.
            cost = cost.saturating_add(if schema.is_some() { AT_ONCE } else { 0 });
            cost = cost.saturating_add(self.registry.filter_cost(tenant, subject.size()));
            cases.push(Case { subject, look, schema });
        }
        let count = cases.len();
        let judging = Judging {
            registry: self.registry.clone(),
            tenant: tenant.clone(),
            cases: cases.into_iter(),
            verdicts: Vec::with_capacity(count),
            now,
        };
        let judged = if cost < AT_ONCE {
            judging.all(&mut Budget::new(CALL_COST, None))
        } else {
            self.compute.run(tenant, bytes, judging).await?
        };
        judged.map_err(|_stopped| {
            self.compute.refused_for_cost();
            JudgeError::TooCostly
        })
    }

    async fn schema(
        &self,
        tenant: &TenantId,
        name: &EventTypeName,
        look: &Look,
    ) -> Result<Option<Known>, SchemaError> {
        let Some(counted) = look.counted.as_ref().filter(|counted| counted.entry().validates()) else {
            return Ok(None);
        };
        self.schemas.get(Wanted { tenant, name, number: counted.number() }).await.map(Some)
    }
}

impl Subject {
    /// Bytes that may have to be looked at.
    fn size(&self) -> usize {
        let attributes = self.attributes.iter().map(|(name, value)| name.len() + value.len());
        self.data.len() + attributes.sum::<usize>()
    }
}

/// An event with what its type's entry says.
struct Case {
    subject: Subject,
    look: Look,
    schema: Option<Known>,
}

struct Judging {
    registry: Arc<Registry>,
    tenant: TenantId,
    cases: std::vec::IntoIter<Case>,
    verdicts: Verdicts,
    now: Timestamp,
}

impl Work for Judging {
    type Output = Result<Verdicts, Stopped>;
    const KIND: Kind = Kind::Judge;

    fn step(&mut self, slice: &Slice, budget: &mut Budget) -> Option<Self::Output> {
        while let Some(case) = self.cases.next() {
            if let Err(stopped) = self.one(case, budget) {
                return Some(Err(stopped));
            }
            if slice.is_over() && self.cases.len() > 0 {
                return None;
            }
        }
        Some(Ok(std::mem::take(&mut self.verdicts)))
    }
}

impl Judging {
    fn all(mut self, budget: &mut Budget) -> Result<Verdicts, Stopped> {
        while let Some(case) = self.cases.next() {
            self.one(case, budget)?;
        }
        Ok(self.verdicts)
    }

    /// Judges one; an error when the call is at its end.
    fn one(&mut self, case: Case, budget: &mut Budget) -> Result<(), Stopped> {
        let Case { subject, look, schema } = case;
        let verdict = match self.verdict(&subject, &look, schema.as_ref(), budget) {
            Err(Refusal::Stopped(stopped)) => return Err(stopped),
            verdict => verdict,
        };
        self.verdicts.push((subject, verdict));
        Ok(())
    }

    fn verdict(
        &self,
        subject: &Subject,
        look: &Look,
        schema: Option<&Known>,
        budget: &mut Budget,
    ) -> Result<Verdict, Refusal> {
        let event = Judged { name: &subject.name, data: &subject.data };
        let entry = look.counted.as_ref().map(|counted| counted.entry());
        let schema = schema.map(|known| known.as_ref().map_err(AsRef::as_ref));
        let warnings = catalogue::judge(event, entry, schema, look.unknown, budget)?;
        if let Some(counted) = look.counted.as_ref().filter(|_| !warnings.is_empty()) {
            counted.warned();
        }
        let facts = Facts::new(&subject.name, subject.timestamp, &subject.attributes, &subject.data);
        let subscriptions = self.registry.subscribers(&self.tenant, &facts, self.now);
        budget.spend(facts.used()).map_err(Refusal::Stopped)?;
        Ok(Verdict { warnings, subscriptions })
    }
}
