//! The deletion of a tenant. The store knows what there is of it and removes it step by step; here it is begun, together
//! with what says so, and ended, together with the tenant's own row.

use std::time::Duration;

use postrider_domain::audit::Entry;
use postrider_domain::id::{TenantId, TokenId};
use postrider_domain::operation::State;
use postrider_proto::operation::write_state;
use postrider_proto::time;
use postrider_proto::v1;
use postrider_proto::v1::operation::Work;
use tracing::{info, warn};

use super::{OperationError, Operations, Slot, Step};
use crate::api::Api;
use crate::store::{OperationRow, Store, StoreError};

/// The pause between two steps, in which other writes go on.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) async fn step(store: &dyn Store, row: &OperationRow) -> Result<Step, StoreError> {
    let deletion = store.delete_of_tenant(&tenant_of(row)?, &row.cursor).await?;
    Ok(Step {
        cursor: deletion.place,
        matched: deletion.removed,
        done: deletion.removed,
        progress: deletion.progress,
        finished: deletion.finished,
        wait: PAUSE,
        ..Step::default()
    })
}

fn tenant_of(row: &OperationRow) -> Result<TenantId, StoreError> {
    let damaged = |_| StoreError::Damaged {
        place: row.id.to_string(),
        problem: "what it is for cannot be read".to_owned(),
    };
    row.operation.tenant.parse().map_err(damaged)
}

impl Operations {
    /// Begins to delete a tenant: its row says so by now, and these are its tokens. Its other operations end.
    ///
    /// # Errors
    /// [`OperationError::Store`].
    pub async fn begin_deletion(
        &self,
        tenant: v1::Tenant,
        row: OperationRow,
        tokens: &[TokenId],
        audit: Entry,
    ) -> Result<OperationRow, OperationError> {
        let _change = self.changes.lock().await;
        self.store.begin_tenant_deletion(tenant, &row, tokens, audit).await?;
        for mut other in self.unfinished(&row.operation.tenant) {
            other.operation.set_state(write_state(State::Cancelled));
            other.operation.end_time = Some(time::write(self.clock.wall()));
            other.operation.problem = "the tenant is being deleted".to_owned();
            let (id, changed) = (other.id, self.slot(other.id).map(|slot| slot.changed));
            // Its row goes with the tenant; a restart before that finds nothing that it could do.
            if let Err(error) = self.store.put_operation(&other, None).await {
                warn!(operation = %id, %error, "failed to store the end of a tenant's deletion");
            }
            self.replace(other);
            changed.into_iter().for_each(|changed| changed.notify_one());
        }
        self.slots().insert(row.id, Slot::new(row.clone()));
        let _stopping = self.begin.send(row.id);
        Ok(row)
    }

    /// The operation that deletes a tenant, if one is at work.
    #[must_use]
    pub fn deletion_of(&self, tenant: &TenantId) -> Option<OperationRow> {
        let mut unfinished = self.unfinished(tenant.as_str());
        unfinished.retain(|row| matches!(row.operation.work, Some(Work::TenantDeletion(_))));
        unfinished.pop()
    }

    /// Whether any operation of a tenant is remembered.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn has_any(&self, tenant: &TenantId) -> Result<bool, StoreError> {
        Ok(!self.store.operations_of(tenant, None, 1).await?.items.is_empty())
    }

    pub(super) fn unfinished(&self, tenant: &str) -> Vec<OperationRow> {
        let slots = self.slots();
        let own =
            slots.values().filter(|slot| slot.row.operation.tenant == tenant && !slot.state().has_ended());
        own.map(|slot| slot.row.clone()).collect()
    }

    /// Nothing is left of the tenant: its row goes, in one write with the word that this operation is done.
    pub(super) async fn finish_deletion(&self, api: &Api, row: &OperationRow) -> Result<(), StoreError> {
        let tenant = tenant_of(row)?;
        let audit = Entry {
            tenant: Some(tenant.clone()),
            detail: format!("{}: {} rows are removed", row.id, row.operation.done),
            ..Entry::by_postrider("TenantDeleted", &tenant, self.clock.wall())
        };
        self.store.finish_tenant_deletion(&tenant, row, audit).await?;
        api.emitter.limit(&tenant, None);
        api.registry.end_deletion(&tenant);
        info!(%tenant, rows = row.operation.done, "tenant deleted");
        Ok(())
    }
}
