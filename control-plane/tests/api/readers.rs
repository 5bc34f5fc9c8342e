//! Readers that mean harm, through the gate as it stands before the API: floods, calls that are
//! taken back, streams that are opened and left. An honest tenant reads beside them.

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use postrider_control_plane::api::{Caller, Gate};
use postrider_control_plane::store::{Store as _, TokenRow};
use postrider_domain::access::{Role, Scope};
use postrider_domain::audit::Entry;
use postrider_domain::id::{EventKey, TokenId};
use postrider_domain::time::Timestamp;
use postrider_domain::token::{Kind, SECRET_BYTES, Token};
use postrider_proto::v1;
use postrider_proto::v1::delivery_service_client::DeliveryServiceClient;
use postrider_proto::v1::delivery_service_server::{DeliveryService as _, DeliveryServiceServer};
use postrider_proto::v1::event_service_client::EventServiceClient;
use postrider_proto::v1::event_service_server::EventServiceServer;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use crate::sharing::accept;
use crate::world::{World, by};

/// How long an honest call may take beside all of it, on a machine that has much else to do.
const PATIENT: Duration = Duration::from_secs(10);

/// A world whose API is served behind its gate.
struct Served {
    world: World,
    address: SocketAddr,
    serving: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Served {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = World::start(folder.path()).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let api = world.api.clone();
        let gate = Gate::new(Some(api.tokens.clone()), api.clock).sharing(api.reads.clone());
        let server = Server::builder()
            .layer(gate)
            .add_service(EventServiceServer::new(api.clone()))
            .add_service(DeliveryServiceServer::new(api));
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let serving = tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
        Self { world, address, serving, _folder: folder }
    }

    /// A viewer's token that is confined to a tenant.
    async fn viewer(&self, tenant: &str, number: u128) -> (TokenId, String) {
        let id = TokenId::new(self.world.api.clock.wall(), number);
        let token = Token::new(Kind::Api, id, [7; SECRET_BYTES]);
        let row = TokenRow {
            id,
            digest: token.digest(),
            display_name: String::new(),
            role: Role::Viewer,
            scope: Scope::Tenant(tenant.parse().unwrap()),
            expires: None,
            last_used: None,
            ancestors: Vec::new(),
        };
        self.world.api.tokens.add(row, entry("CreateToken")).await.unwrap();
        (id, format!("Bearer {}", token.expose_text().as_str()))
    }

    async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    async fn end(self) {
        self.serving.abort();
        self.world.end().await;
    }
}

pub(crate) fn entry(action: &str) -> Entry {
    Entry::by_postrider(action, "x", Timestamp::from_millis(1_770_028_200_000))
}

fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", token.parse().unwrap());
    request
}

fn list_events(tenant: &str) -> v1::ListEventsRequest {
    v1::ListEventsRequest { tenant: tenant.into(), page_size: 1000, ..Default::default() }
}

/// Events of a tenant without deliveries, with data of so many bytes.
pub(crate) async fn fill(world: &World, tenant: &str, count: usize, bytes: usize) -> Vec<EventKey> {
    let accepted = world.store.accept((0..count).map(|_| accept(tenant, bytes)).collect()).await.unwrap();
    accepted.into_iter().map(|one| one.unwrap().key).collect()
}

/// Waits until the store is not read any more. Calls that were taken back may still be on their way to the server.
async fn quiet(world: &World) {
    let mut seen = Vec::new();
    for _ in 0..20 {
        idle(world).await;
        world.store.seen();
        tokio::time::sleep(Duration::from_millis(200)).await;
        seen = world.store.seen();
        if seen.is_empty() {
            return;
        }
    }
    panic!("the store is read for nobody: {seen:?}");
}

/// Waits until nothing is read any more.
async fn idle(world: &World) {
    for _ in 0..500 {
        if world.api.reads.load() == (0, 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("reads go on: {:?}", world.api.reads.load());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_tenant_reads_beside_a_flood_of_lists() {
    let served = Served::start().await;
    for tenant in ["evil", "honest"] {
        served.world.tenant(tenant).await;
    }
    fill(&served.world, "evil", 2000, 100).await;
    let (_, evil) = served.viewer("evil", 1).await;
    let (_, honest) = served.viewer("honest", 2).await;
    let mut flood = Vec::new();
    for _ in 0..3 {
        let channel = served.channel().await;
        flood.extend((0..150).map(|_| {
            let (mut api, evil) = (EventServiceClient::new(channel.clone()), evil.clone());
            tokio::spawn(async move {
                let mut refused = 0;
                loop {
                    match api.list_events(with(&evil, list_events("evil"))).await {
                        Ok(_) => {}
                        Err(status) => {
                            assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                            let details = status.get_error_details();
                            assert_eq!(details.error_info().unwrap().reason, "TOKEN_READS_EXCEEDED");
                            assert!(details.retry_info().is_some());
                            refused += 1;
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                    }
                    if refused == 1000 {
                        return;
                    }
                }
            })
        }));
    }
    while served.world.api.reads.load().0 < 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut api = EventServiceClient::new(served.channel().await);
    for _ in 0..50 {
        let answered = timeout(PATIENT, api.list_events(with(&honest, list_events("honest")))).await;
        let events = answered.expect("it is served").unwrap().into_inner().events;
        assert!(!events.is_empty());
    }
    flood.iter().for_each(JoinHandle::abort);
    for one in flood {
        let _stopped = one.await;
    }
    idle(&served.world).await;
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_lists_that_are_taken_back() {
    let served = Served::start().await;
    served.world.tenant("evil").await;
    fill(&served.world, "evil", 3000, 100).await;
    let (_, evil) = served.viewer("evil", 1).await;
    for _ in 0..10 {
        // A client that has its calls taken back loses its connection after a while.
        let api = EventServiceClient::new(served.channel().await);
        let calls = (0..150).map(|_| {
            let (mut api, evil) = (api.clone(), evil.clone());
            async move {
                let call = api.list_events(with(&evil, list_events("evil")));
                let _taken_back = timeout(Duration::from_millis(3), call).await;
            }
        });
        join_all(calls).await;
    }
    quiet(&served.world).await;
    assert_eq!(served.world.api.reads.bytes(), 0);
    served.end().await;
}

#[tokio::test]
async fn a_revoked_token_has_no_read_under_way_any_more() {
    let served = Served::start().await;
    served.world.tenant("acme").await;
    let (id, token) = served.viewer("acme", 1).await;
    served.world.store.hold("list_events");
    let mut api = EventServiceClient::new(served.channel().await);
    let call = tokio::spawn(async move { api.list_events(with(&token, list_events("acme"))).await });
    while served.world.api.reads.load() != (0, 1) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    served.world.api.tokens.revoke(id, entry("RevokeToken")).await.unwrap();
    let refused = timeout(PATIENT, call).await.expect("at once").unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(served.world.api.reads.load(), (0, 0));
    served.world.store.held.add_permits(10);
    served.end().await;
}

fn watch(tenant: &str) -> v1::WatchDeliveriesRequest {
    let from_time = Some(prost_types::Timestamp::default());
    v1::WatchDeliveriesRequest { tenant: tenant.into(), from_time, ..Default::default() }
}

fn viewer(tenant: &str, token: &str) -> Caller {
    let scope = Scope::Tenant(tenant.parse().unwrap());
    Caller { actor: token.into(), role: Role::Viewer, scope, ..Caller::postrider() }
}

#[tokio::test]
async fn a_token_and_a_tenant_have_so_many_streams_that_watch() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    for tenant in ["acme", "other"] {
        world.tenant(tenant).await;
    }
    let mut open = Vec::new();
    let refused = async |caller: Caller, tenant: &str| {
        let refused = world.api.watch_deliveries(by(caller, watch(tenant))).await.err()?;
        let details = refused.get_error_details();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(details.retry_info().is_some());
        details.error_info().map(|info| info.reason.clone())
    };
    for token in 0..4 {
        let caller = viewer("acme", &format!("tok_{token}"));
        for _ in 0..16 {
            open.push(world.api.watch_deliveries(by(caller.clone(), watch("acme"))).await.unwrap());
        }
        let reason = refused(caller, "acme").await;
        assert_eq!(reason.as_deref(), Some("TOKEN_WATCHERS_EXCEEDED"));
    }
    let reason = refused(viewer("acme", "tok_9"), "acme").await;
    assert_eq!(reason.as_deref(), Some("TENANT_WATCHERS_EXCEEDED"));
    for (caller, tenant) in [(viewer("other", "tok_8"), "other"), (Caller::postrider(), "acme")] {
        drop(world.api.watch_deliveries(by(caller, watch(tenant))).await.unwrap());
    }
    drop(open.pop());
    for _ in 0..500 {
        if refused(viewer("acme", "tok_9"), "acme").await.is_none() {
            world.end().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a stream that is gone still counts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_opened_and_left_leave_no_work() {
    let served = Served::start().await;
    served.world.tenant("evil").await;
    fill(&served.world, "evil", 6000, 100).await;
    let (_, evil) = served.viewer("evil", 1).await;
    let mut api = DeliveryServiceClient::new(served.channel().await);
    let mut begun = 0;
    for _ in 0..300 {
        match api.watch_deliveries(with(&evil, watch("evil"))).await {
            Ok(stream) => {
                begun += 1;
                drop(stream);
            }
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}"),
        }
    }
    assert!(begun > 0);
    quiet(&served.world).await;
    served.end().await;
}

#[tokio::test]
async fn a_stream_that_catches_up_ends_with_its_token_and_reads_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.tenant("acme").await;
    fill(&world, "acme", 6000, 10).await;
    world.store.hold("changes");
    let caller = viewer("acme", "tok_1");
    let token_status = caller.token_status.clone();
    let mut stream = world.api.watch_deliveries(by(caller, watch("acme"))).await.unwrap().into_inner();
    assert!(stream.next().await.unwrap().is_ok(), "where it begins");
    while !world.store.seen().contains(&"changes") {
        tokio::task::yield_now().await;
    }
    token_status.ended.cancel();
    let last = timeout(PATIENT, stream.next()).await.expect("at once").unwrap();
    assert_eq!(last.unwrap_err().code(), Code::Unauthenticated);
    world.store.held.add_permits(100);
    idle(&world).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!world.store.seen().contains(&"changes"), "it goes on for nobody");
    world.end().await;
}
