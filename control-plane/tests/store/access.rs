//! What every store promises about who may what, and about who did what.

use postrider_control_plane::store::{
    AuditQuery, DeliveryPlace, DeliveryQuery, RequestKey, RequestRow, Retention, Settle, Settlement, TokenRow,
};
use postrider_domain::access::{Role, Scope};
use postrider_domain::audit::{Check, Entry, Head};
use postrider_domain::delivery::State;
use postrider_domain::id::{DeliveryId, TenantId, TokenId};
use postrider_domain::time::Timestamp;
use postrider_domain::token::TokenDigest;
use postrider_proto::v1;

use crate::Backend;
use crate::suite::{accept, accept_one, at, entry, fresh, lane, query, subscription, tenant};

fn audit_query() -> AuditQuery {
    AuditQuery { end: Timestamp::MAX, limit: 100, ..AuditQuery::default() }
}

pub(crate) async fn every_change_has_its_audit_record_in_one_chain(backend: &dyn Backend) {
    let store = backend.open();
    let wire = v1::Tenant { id: "acme".into(), ..v1::Tenant::default() };
    store.put_tenant(wire, entry("CreateTenant")).await.unwrap();
    let changes =
        (0..20).map(|number| {
            let store = store.clone();
            async move {
                store.put_subscription(&subscription(lane(number)), None, entry("CreateSubscription")).await
            }
        });
    for done in futures::future::join_all(changes).await {
        done.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    let store = backend.open();
    store.put_audit_entry(entry("RevealSigningKey")).await.unwrap();
    store.put_audit_entry(entry("DeleteTenant")).await.unwrap();
    let records = store.audit_records_after(0, 100).await.unwrap();
    assert_eq!(records.len(), 23);
    let end = records.iter().try_fold(Head::default(), |head, record| head.follow(record));
    assert_eq!(end, Some(store.audit_span().await.unwrap().end));
    assert_eq!(store.audit_records_after(20, 2).await.unwrap(), records[20..22]);
    let newest = store.audit_records(AuditQuery { limit: 2, ..audit_query() }).await.unwrap();
    let newest_records: Vec<_> = newest.items.iter().map(|row| row.record.clone()).collect();
    assert_eq!(newest_records, [records[22].clone(), records[21].clone()]);
    let rest = store.audit_records(AuditQuery { before: newest.next, ..audit_query() }).await.unwrap();
    assert_eq!((rest.items.len(), rest.next), (21, None));
    let creations = AuditQuery { action: Some("CreateSubscription".into()), ..audit_query() };
    assert_eq!(store.audit_records(creations).await.unwrap().items.len(), 20);
    let others = AuditQuery { tenant: "other".parse().ok(), ..audit_query() };
    assert_eq!(store.audit_records(others).await.unwrap().items, []);
}

pub(crate) async fn tokens_are_kept_until_they_are_removed(backend: &dyn Backend) {
    let store = backend.open();
    let token = |number: u128, scope| TokenRow {
        id: TokenId::new(at(0), number),
        digest: TokenDigest::from_bytes([3; 32]),
        display_name: "ci".into(),
        role: Role::Emitter,
        scope,
        expires: Some(at(60)),
        last_used: None,
        ancestors: Vec::new(),
    };
    let mut first = token(1, Scope::Tenant(tenant()));
    let second = TokenRow { expires: None, ..token(2, Scope::Everything) };
    for row in [&first, &second] {
        store.put_token(row, entry("CreateToken")).await.unwrap();
    }
    store.put_token_uses(vec![(first.id, at(7))]).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = backend.open();
    first.last_used = Some(at(7));
    assert_eq!(store.tokens().await.unwrap(), [first.clone(), second.clone()]);
    store.delete_token(first.id, entry("RevokeToken")).await.unwrap();
    assert_eq!(store.tokens().await.unwrap(), [second]);
    assert_eq!(store.audit_span().await.unwrap().end.sequence, 3, "a use is no change");
}

fn other() -> TenantId {
    "other".parse().unwrap()
}

pub(crate) async fn a_tenants_audit_records_are_numbered_among_themselves(backend: &dyn Backend) {
    let of = |tenant: Option<TenantId>, number: u64| Entry { tenant, time: at(number), ..entry("Change") };
    let store = backend.open();
    for number in 0..30_u64 {
        let whose = [Some(tenant()), Some(other()), None][usize::try_from(number % 3).unwrap()].clone();
        store.put_audit_entry(of(whose, number)).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    let store = backend.open();
    store.put_audit_entry(of(Some(other()), 30)).await.unwrap();
    let mut query = AuditQuery { tenant: Some(other()), limit: 4, ..audit_query() };
    let mut numbers = Vec::new();
    loop {
        let page = store.audit_records(query.clone()).await.unwrap();
        assert!(page.items.iter().all(|row| row.record.entry.tenant == Some(other())));
        numbers.extend(page.items.iter().map(|row| row.number));
        query.before = page.next;
        if query.before.is_none() {
            break;
        }
    }
    assert_eq!(numbers, (1..=11).rev().collect::<Vec<_>>(), "what others do shows in a tenant's numbers");
    let nobody = AuditQuery { tenant: "nobody".parse().ok(), ..audit_query() };
    assert_eq!(store.audit_records(nobody).await.unwrap().items, []);
    let late = AuditQuery { start: at(27), end: at(29), ..audit_query() };
    assert_eq!(store.audit_records(late).await.unwrap().items.len(), 2);
}

pub(crate) async fn what_people_do_to_deliveries_is_written_with_its_record(backend: &dyn Backend) {
    let store = backend.open();
    let accepted = accept_one(&store, accept(1, at(0), &[lane(1)])).await.unwrap();
    let id = accepted.deliveries[0];
    let cancelled =
        postrider_domain::delivery::Delivery { state: State::Cancelled(at(1)), ..fresh(id, accepted.key) };
    let settle = Settle { id, was_due: None, delivery: cancelled, attempt: None };
    let settlement = Settlement {
        deliveries: vec![settle],
        audit: vec![entry("CancelDelivery")],
        ..Settlement::default()
    };
    store.settle(settlement).await.unwrap();
    let records = store.audit_records_after(0, 9).await.unwrap();
    let actions: Vec<&str> = records.iter().map(|record| record.entry.action.as_str()).collect();
    assert_eq!(actions, ["CancelDelivery"]);
    assert_eq!(verified(&store).await, Ok(1));
}

/// How many records are as they were written, or what is wrong.
async fn verified(store: &std::sync::Arc<dyn postrider_control_plane::store::Store>) -> Result<u64, String> {
    let span = store.audit_span().await.unwrap();
    let mut check = Check::new(span.start, span.end, None);
    let records = store.audit_records_after(span.start.sequence, 10_000).await.unwrap();
    records.iter().try_for_each(|record| check.follow(record))?;
    check.finish().map(|()| check.checked())
}

pub(crate) async fn old_audit_records_age_out_and_the_log_says_so(backend: &dyn Backend) {
    let store = backend.open();
    let day = |number: u64| at(number * 86_400);
    for number in 0..2500 {
        let whose = [Some(tenant()), None][usize::try_from(number % 2).unwrap()].clone();
        let time = day(number / 100);
        store.put_audit_entry(Entry { time, tenant: whose, ..entry("Change") }).await.unwrap();
    }
    let age_out = async |until: u64| {
        let retention = Retention {
            idempotency: at(0),
            delivered_data: at(0),
            events: at(0),
            audit: Some(day(until)),
            now: day(30),
        };
        while store.age_out(retention).await.unwrap() {}
    };
    let kept = async || {
        let span = store.audit_span().await.unwrap();
        (span.start.sequence, span.end.sequence)
    };
    age_out(1).await;
    assert_eq!(kept().await, (0, 2500), "a removal a day is enough");
    age_out(5).await;
    assert_eq!(kept().await, (500, 2501), "those of before the fifth day, and a record that says so");
    assert_eq!(verified(&store).await, Ok(2001));
    age_out(24).await;
    assert_eq!(kept().await.0, 2400, "in steps of a bounded size");
    let records = store.audit_records_after(2400, 1000).await.unwrap();
    let cuts: Vec<_> = records.iter().filter(|record| record.entry.action == "CutAuditLog").collect();
    assert_eq!(cuts.last().unwrap().entry.target, "2400");
    assert_eq!(verified(&store).await, Ok(100 + 1 + 2));
    store.close().await.unwrap();
    drop(store);
    let store = backend.open();
    assert_eq!(verified(&store).await, Ok(103), "after a restart");
    let own = AuditQuery { tenant: Some(tenant()), limit: 1000, ..audit_query() };
    let left = store.audit_records(own).await.unwrap().items;
    let numbers: Vec<u64> = left.iter().map(|row| row.number).collect();
    assert_eq!(
        numbers,
        (1201..=1250).rev().collect::<Vec<_>>(),
        "a tenant's list ages out too, and numbers stay"
    );
}

pub(crate) async fn a_deleted_tenant_takes_its_tokens_and_requests_along(backend: &dyn Backend) {
    let store = backend.open();
    let mut rows = Vec::new();
    for (number, scope) in [(1, Scope::Tenant(tenant())), (2, Scope::Tenant(other())), (3, Scope::Everything)]
    {
        let row = TokenRow {
            id: TokenId::new(at(0), number),
            digest: TokenDigest::from_bytes([3; 32]),
            display_name: String::new(),
            role: Role::Admin,
            scope,
            expires: None,
            last_used: None,
            ancestors: Vec::new(),
        };
        store.put_token(&row, entry("CreateToken")).await.unwrap();
        rows.push(row);
    }
    let request = RequestRow { result: "sub".into(), digest: [1; 16], expires: at(100) };
    let key = |tenant: TenantId| RequestKey {
        tenant,
        actor: "tok_1".into(),
        method: "Create",
        request_id: "r".into(),
    };
    for tenant in [tenant(), other()] {
        store.put_request(key(tenant), request.clone()).await.unwrap();
    }
    crate::tenants::delete(&store, &tenant(), &[rows[0].id]).await;
    assert_eq!(store.tokens().await.unwrap(), rows[1..]);
    assert_eq!(store.request(&key(tenant())).await.unwrap(), None);
    assert_eq!(store.request(&key(other())).await.unwrap(), Some(request));
}

pub(crate) async fn the_first_admins_token_is_remembered_for_good(backend: &dyn Backend) {
    let store = backend.open();
    assert_eq!(store.bootstrap_tokens().await.unwrap(), []);
    let row = TokenRow {
        id: TokenId::new(at(0), 7),
        digest: TokenDigest::from_bytes([3; 32]),
        display_name: "bootstrap".into(),
        role: Role::Admin,
        scope: Scope::Everything,
        expires: None,
        last_used: None,
        ancestors: Vec::new(),
    };
    store.put_bootstrap_token(&row, entry("CreateToken")).await.unwrap();
    store.delete_token(row.id, entry("RevokeToken")).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = backend.open();
    assert_eq!(store.tokens().await.unwrap(), []);
    assert_eq!(store.bootstrap_tokens().await.unwrap(), [row.id]);
}

pub(crate) async fn nothing_leads_to_another_tenants_delivery(backend: &dyn Backend) {
    let store = backend.open();
    let mut foreign = accept(1, at(1), &[lane(2)]);
    foreign.event.tenant = other();
    let foreign = accept_one(&store, foreign).await.unwrap();
    let own = accept_one(&store, accept(2, at(2), &[lane(1)])).await.unwrap();
    let (id, foreign_id) = (own.deliveries[0], foreign.deliveries[0]);
    let none = DeliveryId { sequence: 99, ..id };
    assert_eq!(store.delivery_of(&tenant(), id).await.unwrap(), store.delivery(id).await.unwrap());
    for id in [foreign_id, none] {
        assert_eq!(store.delivery_of(&tenant(), id).await.unwrap(), None);
    }
    // Places that nobody was given: of another lane, of another tenant, of nothing.
    for (event, id) in [
        (foreign.key, foreign_id),
        (own.key, foreign_id),
        (foreign.key, id),
        (own.key, DeliveryId { subscription: lane(u128::MAX), sequence: u64::MAX }),
    ] {
        let after = Some(DeliveryPlace { event, id });
        for query in [
            DeliveryQuery { after, ..query() },
            DeliveryQuery { after, subscription: Some(lane(1)), ..query() },
            DeliveryQuery { after, event: Some(own.key), ..query() },
        ] {
            let found = store.deliveries(query.clone()).await.unwrap().items;
            let strange = found.iter().find(|row| row.id != own.deliveries[0]);
            assert_eq!(strange, None, "{query:?}");
            assert!(found.iter().all(|row| row.delivery.event == own.key), "{query:?}");
        }
    }
    assert_eq!("evt_.dlv_".parse::<DeliveryPlace>().ok(), None);
    let place = DeliveryPlace { event: own.key, id };
    assert_eq!(place.to_string().parse(), Ok(place));
}
