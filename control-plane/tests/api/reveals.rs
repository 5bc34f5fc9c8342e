//! Repeated calls as a way to secrets: an operator with a request id tries to see keys that it may not reveal.

use postrider_control_plane::api::Caller;
use postrider_control_plane::store::Store as _;
use postrider_domain::access::Role;
use postrider_domain::audit::Entry;
use postrider_proto::v1;
use postrider_proto::v1::signing_key_service_server::SigningKeyService as _;
use postrider_proto::v1::subscription_service_server::SubscriptionService as _;
use tonic::Request;

use crate::world::{World, admin, by};

const TENANT: &str = "acme";

/// A request of an operator, which may not reveal keys.
fn operator<T>(message: T) -> Request<T> {
    by(Caller { actor: "tok_operator".into(), role: Role::Operator, ..Caller::postrider() }, message)
}

fn create(secret: &str) -> v1::CreateSubscriptionRequest {
    let subscription = v1::Subscription {
        tenant: TENANT.into(),
        url: "https://hooks.example.com/".into(),
        event_types: vec!["*".into()],
        ..Default::default()
    };
    v1::CreateSubscriptionRequest {
        subscription: Some(subscription),
        secret: secret.into(),
        request_id: "once".into(),
    }
}

impl World {
    async fn create(&self, secret: &str) -> v1::CreateSubscriptionResponse {
        self.api.create_subscription(operator(create(secret))).await.unwrap().into_inner()
    }

    async fn last_entry(&self) -> Entry {
        self.store.audit_records_after(0, 1000).await.unwrap().pop().unwrap().entry
    }
}

fn id_of(made: &v1::CreateSubscriptionResponse) -> String {
    made.subscription.clone().unwrap().id
}

#[tokio::test]
async fn a_repeated_create_shows_the_first_secret_and_is_recorded_as_a_reveal() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.tenant(TENANT).await;
    let first = world.create("").await;
    assert_eq!(world.last_entry().await.action, "CreateSubscription");
    let again = world.create("").await;
    assert_eq!(again, first);
    let entry = world.last_entry().await;
    let key = first.signing_key.unwrap().id;
    assert_eq!((entry.action.as_str(), entry.actor.as_str()), ("RevealSigningKey", "tok_operator"));
    assert_eq!(entry.detail, format!("{key}, by a repeated CreateSubscription"));
    assert_eq!((entry.request_id.as_str(), entry.target), ("once", id_of(&again)));
    world.end().await;
}

/// Every way by which the keys can change after the create.
#[tokio::test]
async fn a_repeated_create_shows_no_secret_once_the_keys_have_changed() {
    for change in ["rotate", "rotate at once", "create", "create and activate", "create and revoke", "v1a"] {
        let folder = tempfile::tempdir().unwrap();
        let world = World::start(folder.path()).await;
        world.tenant(TENANT).await;
        let first = world.create("").await;
        let later = world.change_keys(&id_of(&first), change).await;
        let again = world.create("").await;
        assert_eq!(again.secret, "", "{change}: a secret was shown");
        assert!(!format!("{again:?}").contains(&later), "{change}");
        assert!(!format!("{again:?}").contains(&first.secret), "{change}");
        assert!(again.warnings.iter().any(|warning| warning.starts_with("secret: left out")), "{again:?}");
        let entry = world.last_entry().await;
        assert_eq!(entry.action, "CreateSubscription", "{change}");
        assert!(entry.detail.contains("no secret was returned"), "{change}: {}", entry.detail);
        world.end().await;
    }
}

impl World {
    /// Changes a subscription's keys as an admin; the new secret.
    async fn change_keys(&self, subscription: &str, change: &str) -> String {
        let (tenant, subscription) = (TENANT.to_owned(), subscription.to_owned());
        if let Some(overlap) = match change {
            "rotate" => Some(3600),
            "rotate at once" => Some(0),
            _ => None,
        } {
            let overlap = Some(prost_types::Duration { seconds: overlap, nanos: 0 });
            let request = v1::RotateSigningKeyRequest { tenant, subscription, overlap, ..Default::default() };
            return self.api.rotate_signing_key(admin(request)).await.unwrap().into_inner().secret;
        }
        let scheme = if change == "v1a" { "v1a" } else { "" };
        let request = v1::CreateSigningKeyRequest {
            tenant: tenant.clone(),
            subscription: subscription.clone(),
            scheme: scheme.into(),
            ..Default::default()
        };
        let made = self.api.create_signing_key(admin(request)).await.unwrap().into_inner();
        let signing_key = made.signing_key.unwrap().id;
        if change == "create and activate" {
            let overlap = Some(prost_types::Duration { seconds: 0, nanos: 0 });
            let request = v1::ActivateSigningKeyRequest {
                tenant,
                subscription,
                signing_key,
                overlap,
                ..Default::default()
            };
            self.api.activate_signing_key(admin(request)).await.unwrap();
        } else if change == "create and revoke" {
            let request = v1::RevokeSigningKeyRequest { tenant, subscription, signing_key };
            self.api.revoke_signing_key(admin(request)).await.unwrap();
        }
        made.secret
    }
}

#[tokio::test]
async fn a_repeated_rotation_shows_its_own_key_and_never_a_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.tenant(TENANT).await;
    let subscription = id_of(&world.create("").await);
    let rotate = || {
        operator(v1::RotateSigningKeyRequest {
            tenant: TENANT.into(),
            subscription: subscription.clone(),
            request_id: "rotation".into(),
            ..Default::default()
        })
    };
    let own = world.api.rotate_signing_key(rotate()).await.unwrap().into_inner();
    let later = world.change_keys(&subscription, "rotate").await;
    let again = world.api.rotate_signing_key(rotate()).await.unwrap().into_inner();
    assert!(again.secret == own.secret && again.secret != later);
    let entry = world.last_entry().await;
    assert_eq!(entry.action, "RevealSigningKey");
    assert_eq!(
        entry.detail,
        format!("{}, by a repeated RotateSigningKey", own.signing_key.clone().unwrap().id)
    );
    world.change_keys(&subscription, "rotate at once").await;
    let request = v1::RevokeSigningKeyRequest {
        tenant: TENANT.into(),
        subscription: subscription.clone(),
        signing_key: own.signing_key.unwrap().id,
    };
    world.api.revoke_signing_key(admin(request)).await.unwrap();
    let refused = world.api.rotate_signing_key(rotate()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "its key is revoked: {refused:?}");
    world.end().await;
}
