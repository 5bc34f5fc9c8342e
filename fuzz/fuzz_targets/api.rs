//! The API itself: any bytes as the request of any call, to a control plane that runs in this process. No call makes it
//! panic, and none fails in a way that the contract does not name.
//!
//! The input is the name of the call, a zero byte, and the request. In that 26 zeros, as in `sub_000…`, stand for a
//! subscription that exists.

#![no_main]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use libfuzzer_sys::fuzz_target;
use postrider_control_plane::config::{Settings, load};
use postrider_proto::{DESCRIPTORS, v1};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use tower::{Service as _, ServiceExt as _};

/// Written in requests for the subscription that exists, after the prefix of its id or of its deliveries'.
const PLACEHOLDER: &[u8] = b"00000000000000000000000000";
/// How long a call may take that is no stream without end.
const PATIENCE: Duration = Duration::from_secs(9);
/// How long a stream without end is listened to.
const LISTEN: Duration = Duration::from_millis(5);

static WORLD: LazyLock<World> = LazyLock::new(World::start);

fuzz_target!(|data: &[u8]| {
    let world = &*WORLD;
    let Some(end) = data.iter().position(|byte| *byte == 0) else { return };
    let (name, request) = (&data[..end], &data[end + 1..]);
    let Some(call) = world.calls.iter().find(|call| call.name.as_bytes() == name) else { return };
    let request = world.with_subscription(request);
    let status = world.runtime.block_on(world.call(call, request));
    judge(call, &status);
    if status.code() == Code::Ok && call.path.contains("/Delete") {
        world.runtime.block_on(world.populate());
    }
});

/// A call of the API.
struct Call {
    name: String,
    path: String,
    endless: bool,
}

struct World {
    runtime: Runtime,
    channel: Channel,
    calls: Vec<Call>,
    subscription: std::sync::Mutex<String>,
}

/// What the contract names, and what gRPC says of bytes that are no message.
fn judge(call: &Call, status: &Status) {
    let unreadable = status.message().starts_with("failed to decode Protobuf message");
    let ours =
        !matches!(status.code(), Code::Unknown | Code::Internal | Code::DataLoss | Code::Unimplemented);
    assert!(ours || unreadable, "{}: {status:?}", call.path);
    // This control plane has no agents, so a call that needs one is refused.
    let unavailable = status.code() == Code::Unavailable && !needs_an_agent(status);
    assert!(!unavailable, "{}: {status:?}", call.path);
}

/// Whether this is the answer of a call that an agent must carry out while none is connected.
fn needs_an_agent(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|info| info.reason == "NO_AGENT")
}

/// Every call of the API.
fn calls() -> Vec<Call> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).expect("the descriptors are whole").file;
    let mut calls = Vec::new();
    for file in files.iter().filter(|file| file.package() == "postrider.v1") {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/postrider.v1.{}/{}", service.name(), method.name());
                let endless = method.server_streaming() && !method.client_streaming();
                calls.push(Call { name: method.name().to_owned(), path, endless });
            }
        }
    }
    calls
}

/// A file that only its owner may read.
fn write_key(path: &Path, key: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(key.as_bytes())
}

impl World {
    fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime starts");
        let folder = std::env::temp_dir().join(format!("postrider-fuzz-{}", std::process::id()));
        // Free now; nobody else on this machine asks for ports as fast as to take it before it is bound.
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let (api, agents) = (free().expect("a free port"), free().expect("a free port"));
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        let kek = folder.join("kek");
        write_key(&kek, &"5a".repeat(32)).expect("a file can be made");
        let settings = Settings {
            kek: Some(vec![format!("file:{}", kek.display())]),
            data_dir: Some(folder),
            api_listen: Some(api.to_string()),
            agent_listen: Some(agents.to_string()),
            insecure_loopback: Some(true),
            ..Settings::default()
        };
        let config = load(None, settings, std::iter::empty()).expect("the settings are good");
        runtime.spawn(async move {
            let ended =
                postrider_control_plane::app::run(config, Default::default(), std::future::pending()).await;
            panic!("the control plane has ended: {ended:?}");
        });
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{api}")).expect("a URL");
        let channel = runtime.block_on(async {
            loop {
                match endpoint.connect().await {
                    Ok(channel) => break channel,
                    Err(_) => sleep(LISTEN).await,
                }
            }
        });
        let world = Self { runtime, channel, calls: calls(), subscription: Default::default() };
        world.runtime.block_on(world.populate());
        world
    }

    /// A tenant with a subscription, and a second tenant.
    async fn populate(&self) {
        let mut tenants = v1::tenant_service_client::TenantServiceClient::new(self.channel.clone());
        for id in ["acme", "other"] {
            let tenant = v1::Tenant { id: id.to_owned(), ..v1::Tenant::default() };
            let request = v1::CreateTenantRequest { tenant: Some(tenant) };
            let _there_already = tenants.create_tenant(request).await;
        }
        let subscription = v1::Subscription {
            tenant: "acme".to_owned(),
            url: "https://hooks.example.com/".to_owned(),
            event_types: vec!["*".to_owned()],
            ..v1::Subscription::default()
        };
        let request = v1::CreateSubscriptionRequest {
            subscription: Some(subscription),
            ..v1::CreateSubscriptionRequest::default()
        };
        let mut subscriptions =
            v1::subscription_service_client::SubscriptionServiceClient::new(self.channel.clone());
        let made = subscriptions.create_subscription(request).await.expect("a subscription is made");
        let id = made.into_inner().subscription.expect("it is given back").id;
        let id = id.trim_start_matches("sub_").to_owned();
        *self.subscription.lock().expect("nobody panics with it") = id;
    }

    fn with_subscription(&self, request: &[u8]) -> Vec<u8> {
        let id = self.subscription.lock().expect("nobody panics with it").clone();
        let mut request = request.to_vec();
        while let Some(place) = request.windows(PLACEHOLDER.len()).position(|part| part == PLACEHOLDER) {
            request[place..place + PLACEHOLDER.len()].copy_from_slice(id.as_bytes());
        }
        request
    }

    async fn call(&self, call: &Call, request: Vec<u8>) -> Status {
        let answer = timeout(PATIENCE, self.answer(call, request)).await;
        answer.unwrap_or_else(|_| panic!("{} was not answered", call.path))
    }

    async fn answer(&self, call: &Call, request: Vec<u8>) -> Status {
        let length = u32::try_from(request.len()).expect("a short request");
        let frame = [&[0], length.to_be_bytes().as_slice(), &request].concat();
        let request = http::Request::post(&call.path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(Full::new(Bytes::from(frame))))
            .expect("a request");
        let mut channel = self.channel.clone();
        let channel = channel.ready().await.expect("the control plane is there");
        let mut response = channel.call(request).await.expect("the control plane answers");
        if let Some(status) = Status::from_header_map(response.headers()) {
            return status;
        }
        loop {
            let frame = response.body_mut().frame();
            let frame = if call.endless { timeout(LISTEN, frame).await.unwrap_or(None) } else { frame.await };
            match frame {
                None if call.endless => return Status::ok(""),
                None => return Status::unknown("the answer has no status"),
                Some(Err(status)) => return status,
                Some(Ok(frame)) => {
                    let trailers = frame.trailers_ref().and_then(Status::from_header_map);
                    if let Some(status) = trailers {
                        return status;
                    }
                }
            }
        }
    }
}
