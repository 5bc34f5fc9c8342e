//! The conformance suite: what every store promises. A new store is one more `conformance!` line.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is reported")]

#[path = "store/access.rs"]
mod access;

#[path = "store/backups.rs"]
mod backups;

#[path = "store/changes.rs"]
mod changes;

#[path = "store/crash.rs"]
mod crash;

#[path = "store/events.rs"]
mod events;
#[path = "store/lists.rs"]
mod lists;

#[path = "store/pools.rs"]
mod pools;

#[path = "store/recovery.rs"]
mod recovery;

#[path = "store/secrets.rs"]
mod secrets;

#[path = "store/signs.rs"]
mod signs;

#[path = "store/suite.rs"]
mod suite;

#[path = "store/tenants.rs"]
mod tenants;

#[path = "store/trust.rs"]
mod trust;

use std::path::PathBuf;
use std::sync::Arc;

use postrider_control_plane::store::{Options, SledStore, Store, StoreError};

/// A store that can be closed and opened again.
pub(crate) trait Backend {
    fn open(&self) -> Arc<dyn Store>;
    /// Whether these bytes are anywhere in what the closed store is made of.
    fn holds(&self, bytes: &[u8]) -> bool;
}

struct Sled(tempfile::TempDir);

impl Default for Sled {
    fn default() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }
}

impl Backend for Sled {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(open_sled(self.0.path().to_owned()))
    }

    fn holds(&self, bytes: &[u8]) -> bool {
        let (mut folders, mut found) = (vec![self.0.path().to_owned()], false);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("the folder can be read") {
                let path = entry.expect("the folder can be read").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let content = std::fs::read(path).expect("the file can be read");
                    // Behind the last byte is space that is reserved and not written.
                    let end = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                    found |= content[..end].windows(bytes.len()).any(|window| window == bytes);
                }
            }
        }
        found
    }
}

pub(crate) fn open_sled(path: PathBuf) -> SledStore {
    try_open_sled(path).expect("the store opens")
}

pub(crate) fn try_open_sled(path: PathBuf) -> Result<SledStore, StoreError> {
    SledStore::open(&Options { path, cache_bytes: 16 * 1024 * 1024 })
}

macro_rules! conformance {
    ($backend:ty, $suite:ident: $($name:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                $suite::$name(&<$backend>::default()).await;
            }
        )+
    };
}

conformance!(Sled, suite:
    accepts_and_finds_again,
    an_idempotency_key_makes_one_event,
    an_idempotency_key_is_forgotten_after_a_day,
    a_client_chosen_id_is_unique_in_its_tenant,
    deliveries_of_a_lane_are_numbered_without_gaps,
    fresh_rows_come_in_order_and_once,
    an_ordering_key_is_known_to_the_deliveries,
    due_rows_come_by_time,
    every_attempt_is_remembered,
    lists_page_through_everything_once,
    a_lane_is_found_as_it_was_left,
    epochs_grow,
    requests_and_agents_are_remembered,
    things_age_out_in_steps,
    what_is_owed_does_not_age_out,
    events_come_oldest_first_from_a_place_on,
    operations_are_kept_until_they_are_forgotten,
    the_oldest_operations_that_have_ended_are_trimmed,
);

conformance!(Sled, changes:
    what_has_happened_since_a_position_is_found,
    changes_page_through_everything_once,
);

conformance!(Sled, events:
    attributes_and_trace_are_kept_and_attributes_go_with_the_data,
);

conformance!(Sled, lists:
    a_page_ends_where_its_answer_is_large,
    changes_of_one_event_with_many_deliveries_come_in_pages,
    a_list_over_events_without_deliveries_ends,
    request_ids_expire_a_bounded_number_a_round,
);

conformance!(Sled, tenants:
    nothing_is_left_of_a_deleted_tenant_and_others_are_untouched,
    what_comes_late_for_a_tenant_that_is_being_deleted_is_refused,
    stored_bytes_are_exact_and_hold_at_the_limit,
    stored_bytes_are_freed_as_things_age_out,
);

conformance!(Sled, access:
    every_change_has_its_audit_record_in_one_chain,
    a_tenants_audit_records_are_numbered_among_themselves,
    what_people_do_to_deliveries_is_written_with_its_record,
    old_audit_records_age_out_and_the_log_says_so,
    tokens_are_kept_until_they_are_removed,
    a_deleted_tenant_takes_its_tokens_and_requests_along,
    the_first_admins_token_is_remembered_for_good,
    nothing_leads_to_another_tenants_delivery,
);

conformance!(Sled, pools:
    pools_are_kept_until_they_are_removed,
);

conformance!(Sled, signs:
    a_beat_is_a_write_and_changes_nothing,
);

conformance!(Sled, trust:
    an_identity_and_the_use_of_its_join_token_are_one_write,
    authorities_change_together,
);

conformance!(Sled, secrets:
    subscriptions_keep_what_is_sealed,
    headers_that_somebody_forgot_to_seal_are_not_written,
    uses_of_keys_are_kept_beside_their_subscription,
    many_subscriptions_are_resealed_at_once_without_an_audit_record,
    data_keys_are_kept_in_order_and_removed_without_a_trace,
    a_data_key_that_something_needs_is_not_removed,
);
