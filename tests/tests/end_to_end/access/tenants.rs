//! What one tenant could learn of another by what is not named: places in lists, counts, and names that come again.

use std::time::Duration;

use anyhow::{Context as _, Result};
use postrider_domain::id::{EventKey, SubscriptionId};
use postrider_domain::time::Timestamp;
use postrider_proto::v1::{self, Role};
use postrider_tests::api::Api;
use postrider_tests::wait::{when, within};
use postrider_tests::world::Guarded;
use tonic::Code;

use super::things::Things;

/// The API as somebody sees it who is confined to a tenant.
async fn confined(world: &Guarded, role: Role, tenant: &str) -> Result<Api> {
    world.api(tenant, &world.token(role, Some(tenant)).await?.secret)
}

/// Every page of a tenant's deliveries that follows a place, in each of the three ways to list them.
async fn deliveries_after(api: &Api, own: &Things, page_token: &str) -> Result<Vec<v1::Delivery>> {
    let all = v1::ListDeliveriesRequest {
        tenant: own.tenant.clone(),
        page_token: page_token.to_owned(),
        ..Default::default()
    };
    let ways = [
        all.clone(),
        v1::ListDeliveriesRequest { subscription: own.subscription.clone(), ..all.clone() },
        v1::ListDeliveriesRequest { event: own.event.clone(), ..all },
    ];
    let mut found = Vec::new();
    for request in ways {
        match api.deliveries().list_deliveries(request).await {
            Ok(page) => found.extend(page.into_inner().deliveries),
            Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{page_token}: {status:?}"),
        }
    }
    Ok(found)
}

#[tokio::test]
async fn no_place_in_a_list_leads_to_another_tenants_deliveries() -> Result<()> {
    let world = Guarded::start(&[]).await?;
    // Ids sort by age: whatever is between the own subscription and the place would be another's.
    let (before, own, after) =
        (Things::make(&world).await?, Things::make(&world).await?, Things::make(&world).await?);
    let api = confined(&world, Role::Viewer, &own.tenant).await?;
    let last = SubscriptionId::new(Timestamp::MAX, u128::MAX).to_string().replace("sub_", "dlv_") + "-9";
    let events = [&before.event, &own.event, &after.event];
    let late = EventKey::first_at(Timestamp::MAX).to_string();
    for event in events.into_iter().chain([&late]) {
        for delivery in [&before.delivery, &own.delivery, &after.delivery, &last] {
            for page_token in [format!("deliveries:{event}.{delivery}"), format!("deliveries:{delivery}")] {
                for found in deliveries_after(&api, &own, &page_token).await? {
                    assert_eq!(found.tenant, own.tenant, "{page_token}");
                    assert_eq!(found.subscription, own.subscription, "{page_token} led to {found:?}");
                    assert!(!found.event.is_empty(), "{page_token} led to {found:?}");
                }
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_page_token_is_good_for_its_own_list_and_of_no_use_to_another_tenant() -> Result<()> {
    let world = Guarded::start(&[]).await?;
    let (own, foreign) = (Things::make(&world).await?, Things::make(&world).await?);
    let first = v1::ListEventsRequest { page_size: 1, ..Default::default() };
    let of = |things: &Things| v1::ListEventsRequest { tenant: things.tenant.clone(), ..first.clone() };
    let theirs = confined(&world, Role::Viewer, &foreign.tenant).await?;
    let page_token = theirs.events().list_events(of(&foreign)).await?.into_inner().next_page_token;
    let api = confined(&world, Role::Viewer, &own.tenant).await?;
    let request = v1::ListEventsRequest { page_token: page_token.clone(), page_size: 1000, ..of(&own) };
    let refused = api.events().list_events(request).await.err().context("another tenant's was taken")?;
    assert_eq!(refused.code(), Code::InvalidArgument);
    let request = v1::ListSubscriptionsRequest { tenant: own.tenant, page_token, ..Default::default() };
    let refused = api.subscriptions().list_subscriptions(request).await.err().context("it was taken")?;
    assert_eq!(refused.code(), Code::InvalidArgument);
    Ok(())
}

#[tokio::test]
async fn what_a_confined_admin_lists_counts_only_its_own() -> Result<()> {
    let world = Guarded::start(&[]).await?;
    let own = Things::make(&world).await?;
    let admin = confined(&world, Role::Admin, &own.tenant).await?;
    let audit = async || -> Result<_> {
        let request = v1::ListAuditRecordsRequest { page_size: 2, ..Default::default() };
        let answer = admin.audit().list_audit_records(request).await?.into_inner();
        let numbers: Vec<u64> = answer.records.iter().map(|record| record.sequence).collect();
        assert!(answer.records.iter().all(|record| record.hash.is_empty() && record.tenant == own.tenant));
        Ok((numbers, answer.next_page_token))
    };
    let before = audit().await?;
    for _ in 0..3 {
        Things::make(&world).await?;
    }
    assert_eq!(audit().await?, before, "what others do shows");
    let tenants = admin.tenants().list_tenants(v1::ListTenantsRequest::default()).await?.into_inner().tenants;
    assert_eq!(tenants.iter().map(|tenant| &tenant.id).collect::<Vec<_>>(), [&own.tenant]);
    let tokens = admin.tokens().list_tokens(v1::ListTokensRequest::default()).await?.into_inner();
    assert!(tokens.tokens.iter().all(|token| token.tenant == own.tenant) && tokens.tokens.len() == 2);
    assert!(tokens.next_page_token.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_tenant_that_goes_takes_its_tokens_along() -> Result<()> {
    let mut world = Guarded::start(&[]).await?;
    let things = Things::make(&world).await?;
    let tenant = things.empty_tenant.as_str();
    let token = world.token(Role::Operator, Some(tenant)).await?;
    let before = world.api(tenant, &token.secret)?;
    let get = || v1::GetTenantRequest { tenant: tenant.to_owned() };
    before.tenants().get_tenant(get()).await?;
    let request = v1::WatchDeliveriesRequest { tenant: tenant.to_owned(), ..Default::default() };
    let mut watched = before.deliveries().watch_deliveries(request).await?.into_inner();
    // Where it begins.
    watched.message().await?;

    let request = v1::DeleteTenantRequest { tenant: tenant.to_owned(), ..Default::default() };
    let begun = world.admin.tenants().delete_tenant(request).await?.into_inner().operation;
    let ended = tokio::time::timeout(Duration::from_secs(5), watched.message()).await;
    let ended = ended.context("the stream goes on")?.err().context("the stream ended well")?;
    assert_eq!(ended.code(), Code::Unauthenticated);
    let all = world.control_plane.api(tenant)?;
    all.operation_done(&begun.context("no operation in the answer")?.id).await?;
    all.create_tenant().await?;
    let refused =
        before.tenants().get_tenant(get()).await.err().context("the new tenant has an old token")?;
    assert_eq!(refused.code(), Code::Unauthenticated);
    world.control_plane.kill()?;
    world.control_plane.restart().await?;
    let again = world.api(tenant, &token.secret)?;
    within(Duration::from_secs(20), "the control plane judges the token", async || {
        match again.tenants().get_tenant(get()).await {
            Err(status) if status.code() == Code::Unavailable => Ok(None),
            other => Ok(when(other.err().context("an old token")?.code() == Code::Unauthenticated)),
        }
    })
    .await
}
