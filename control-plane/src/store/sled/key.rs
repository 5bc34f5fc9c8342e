//! The keys of the tree: a letter for the kind, then parts of fixed length or texts that end with a zero byte.
//! Numbers are big-endian, so that keys sort as what they stand for.

use postrider_domain::event::EventTypeName;
use postrider_domain::id::{
    AgentId, DeliveryId, EventId, EventKey, OperationId, PoolName, SubscriptionId, TenantId, TokenId,
};
use postrider_domain::join::Pin;
use postrider_domain::time::Timestamp;

use crate::store::RequestKey;

const AGENT: u8 = b'G';
const ATTEMPT: u8 = b'A';
const AUDIT: u8 = b'U';
const AUDIT_OF_TENANT: u8 = b'X';
const BODY: u8 = b'b';
const BOOTSTRAP: u8 = b'B';
const AUTHORITY: u8 = b'H';
const CLIENT_ID: u8 = b'C';
const DELIVERY: u8 = b'D';
const DUE: u8 = b'W';
const EVENT: u8 = b'E';
const EVENT_TYPE: u8 = b'Y';
const IDEMPOTENCY: u8 = b'I';
const IDENTITY: u8 = b'N';
const JOIN_TOKEN: u8 = b'J';
const KEY_USES: u8 = b'P';
const LANE: u8 = b'L';
const META: u8 = b'M';
const OPERATION: u8 = b'O';
const OPERATION_OF_TENANT: u8 = b'o';
const POOL: u8 = b'Q';
const REQUEST: u8 = b'R';
const SUBSCRIPTION: u8 = b'S';
const TENANT: u8 = b'T';
const TOKEN: u8 = b'K';
const TOKEN_USE: u8 = b'V';
const TROUBLE: u8 = b'F';
const USAGE: u8 = b'Z';

/// The kinds whose keys begin with a tenant's name. A deletion removes those rows; `E`, `b`, `C`
/// and `o` with their own care, `X` not at all: the audit log stays.
#[cfg(test)]
const OF_TENANT: [u8; 9] =
    [AUDIT_OF_TENANT, BODY, CLIENT_ID, EVENT, EVENT_TYPE, OPERATION_OF_TENANT, REQUEST, TENANT, USAGE];
/// The kinds whose keys begin with a subscription's id: [`of_subscription`] and [`lane_of`] name them for deletions.
#[cfg(test)]
const OF_SUBSCRIPTION: [u8; 7] = [ATTEMPT, DELIVERY, DUE, KEY_USES, LANE, SUBSCRIPTION, TROUBLE];
/// The other kinds: of nobody, or removed by what refers to them.
#[cfg(test)]
const OTHERS: [u8; 12] = [
    AGENT,
    AUDIT,
    AUTHORITY,
    BOOTSTRAP,
    IDEMPOTENCY,
    IDENTITY,
    JOIN_TOKEN,
    META,
    OPERATION,
    POOL,
    TOKEN,
    TOKEN_USE,
];

/// The tree that is written to only so that sled cleans its log.
pub(super) const CLEANING: &str = "cleaning";
/// Under this name the last epoch is kept of before the store was restored from a backup.
pub(super) const FENCE: &str = "fence";
/// Under this name a store's identity is kept.
pub(super) const IDENTITY_OF_STORE: &str = "store";
/// Under this name the greatest position is kept.
pub(super) const LAST_POSITION: &str = "position";

/// The kinds that there are many rows of. None holds a secret.
pub(super) const WITHOUT_SECRETS: [u8; 14] = [
    ATTEMPT,
    AUDIT,
    AUDIT_OF_TENANT,
    BODY,
    CLIENT_ID,
    DELIVERY,
    DUE,
    EVENT,
    IDEMPOTENCY,
    LANE,
    OPERATION_OF_TENANT,
    REQUEST,
    TROUBLE,
    USAGE,
];

/// What the rows of a kind are, in words.
pub(super) fn name_of(kind: u8) -> &'static str {
    match kind {
        AGENT => "agents",
        ATTEMPT => "attempts",
        AUDIT | AUDIT_OF_TENANT => "audit records",
        BOOTSTRAP => "records of first admin tokens",
        AUTHORITY => "certificate authorities",
        BODY => "parts of event data",
        CLIENT_ID => "event ids of clients",
        DELIVERY => "deliveries",
        DUE => "due times",
        EVENT => "events",
        EVENT_TYPE => "event types",
        IDEMPOTENCY => "idempotency keys",
        IDENTITY => "agent identities",
        JOIN_TOKEN => "join tokens",
        KEY_USES => "records of key uses",
        LANE => "lanes",
        META => "records about the store",
        OPERATION | OPERATION_OF_TENANT => "operations",
        POOL => "pools",
        REQUEST => "request ids",
        SUBSCRIPTION => "subscriptions",
        TENANT => "tenants",
        TOKEN => "tokens",
        TOKEN_USE => "records of token uses",
        TROUBLE => "records of failing endpoints",
        USAGE => "records of stored bytes",
        _ => "rows of an unknown kind",
    }
}

/// A key under construction.
struct Key(Vec<u8>);

impl Key {
    fn new(kind: u8) -> Self {
        let mut bytes = Vec::with_capacity(48);
        bytes.push(kind);
        Self(bytes)
    }

    fn text(mut self, text: &str) -> Self {
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn number(self, number: u64) -> Self {
        self.bytes(&number.to_be_bytes())
    }

    fn time(self, time: Timestamp) -> Self {
        self.number(u64::try_from(time.as_millis()).unwrap_or(0))
    }
}

pub(super) fn meta(name: &str) -> Vec<u8> {
    Key::new(META).bytes(name.as_bytes()).0
}

/// Which commits the store has: written with each of them, and not a part of any.
pub(super) fn commit() -> Vec<u8> {
    meta("commit")
}

pub(super) fn audit_head() -> Vec<u8> {
    meta("audit-head")
}

/// The first record that has an authentication code.
pub(super) fn audit_since() -> Vec<u8> {
    meta("audit-since")
}

/// The last of the records that have aged out.
pub(super) fn audit_start() -> Vec<u8> {
    meta("audit-start")
}

/// The greatest position that was settled at.
pub(super) fn last_position() -> Vec<u8> {
    meta(LAST_POSITION)
}

/// There when data keys were ever written.
pub(super) fn has_data_keys() -> Vec<u8> {
    meta("data-keys")
}

/// How far a sweep of a kind of rows of all tenants has come.
pub(super) fn round(kind: &str) -> Vec<u8> {
    meta(&format!("round-{kind}"))
}

/// How far a sweep of a tenant's events has come.
pub(super) fn sweep(kind: &str, tenant: &str) -> Vec<u8> {
    Key::new(META).text("sweep").text(kind).bytes(tenant.as_bytes()).0
}

pub(super) fn tenants() -> Vec<u8> {
    Key::new(TENANT).0
}

pub(super) fn tenant(id: &TenantId) -> Vec<u8> {
    Key::new(TENANT).bytes(id.as_str().as_bytes()).0
}

pub(super) fn event_types(tenant: &TenantId) -> Vec<u8> {
    Key::new(EVENT_TYPE).text(tenant.as_str()).0
}

pub(super) fn event_type(tenant: &TenantId, name: &EventTypeName) -> Vec<u8> {
    Key::new(EVENT_TYPE).text(tenant.as_str()).bytes(name.as_str().as_bytes()).0
}

/// What a tenant uses.
pub(super) fn usage(tenant: &TenantId) -> Vec<u8> {
    Key::new(USAGE).bytes(tenant.as_str().as_bytes()).0
}

/// There when usage is kept from the beginning on, or was counted.
pub(super) fn usage_counted() -> Vec<u8> {
    meta("usage-counted")
}

/// What begins the keys of the rows that are a tenant's alone, but for its events, its usage and its own row.
pub(super) fn of_tenant(tenant: &TenantId) -> [Vec<u8>; 3] {
    [CLIENT_ID, EVENT_TYPE, REQUEST].map(|kind| Key::new(kind).text(tenant.as_str()).0)
}

/// What begins the keys of the rows of a lane that are many.
pub(super) fn of_subscription(id: SubscriptionId) -> [Vec<u8>; 3] {
    [ATTEMPT, DELIVERY, DUE].map(|kind| Key::new(kind).bytes(&id.to_bytes()).0)
}

/// The keys of the rows of which a subscription has one each.
pub(super) fn lane_of(id: SubscriptionId) -> [Vec<u8>; 4] {
    [key_uses(id), lane(id), subscription(id), trouble(id)]
}

pub(super) fn subscriptions() -> Vec<u8> {
    Key::new(SUBSCRIPTION).0
}

pub(super) fn subscription(id: SubscriptionId) -> Vec<u8> {
    Key::new(SUBSCRIPTION).bytes(&id.to_bytes()).0
}

pub(super) fn all_events() -> Vec<u8> {
    Key::new(EVENT).0
}

pub(super) fn events(tenant: &TenantId) -> Vec<u8> {
    Key::new(EVENT).text(tenant.as_str()).0
}

pub(super) fn event(tenant: &TenantId, key: EventKey) -> Vec<u8> {
    Key::new(EVENT).text(tenant.as_str()).bytes(&key.to_bytes()).0
}

/// A part of an event's data.
pub(super) fn body(tenant: &TenantId, event: EventKey, number: u32) -> Vec<u8> {
    let of_event = Key::new(BODY).text(tenant.as_str()).bytes(&event.to_bytes());
    of_event.bytes(&number.to_be_bytes()).0
}

pub(super) fn client_id(tenant: &TenantId, id: &EventId) -> Vec<u8> {
    Key::new(CLIENT_ID).text(tenant.as_str()).bytes(id.as_str().as_bytes()).0
}

pub(super) fn idempotency(digest: &[u8]) -> Vec<u8> {
    Key::new(IDEMPOTENCY).bytes(digest).0
}

pub(super) fn all_deliveries() -> Vec<u8> {
    Key::new(DELIVERY).0
}

pub(super) fn deliveries(lane: SubscriptionId) -> Vec<u8> {
    Key::new(DELIVERY).bytes(&lane.to_bytes()).0
}

pub(super) fn delivery(id: DeliveryId) -> Vec<u8> {
    Key::new(DELIVERY).bytes(&id.subscription.to_bytes()).number(id.sequence).0
}

pub(super) fn dues(lane: SubscriptionId) -> Vec<u8> {
    Key::new(DUE).bytes(&lane.to_bytes()).0
}

pub(super) fn due(id: DeliveryId, due: Timestamp) -> Vec<u8> {
    Key::new(DUE).bytes(&id.subscription.to_bytes()).time(due).number(id.sequence).0
}

pub(super) fn attempts(id: DeliveryId) -> Vec<u8> {
    Key::new(ATTEMPT).bytes(&id.subscription.to_bytes()).number(id.sequence).0
}

pub(super) fn attempt(id: DeliveryId, number: u32) -> Vec<u8> {
    Key::new(ATTEMPT).bytes(&id.subscription.to_bytes()).number(id.sequence).bytes(&number.to_be_bytes()).0
}

pub(super) fn lane(lane: SubscriptionId) -> Vec<u8> {
    Key::new(LANE).bytes(&lane.to_bytes()).0
}

pub(super) fn trouble(lane: SubscriptionId) -> Vec<u8> {
    Key::new(TROUBLE).bytes(&lane.to_bytes()).0
}

pub(super) fn requests() -> Vec<u8> {
    Key::new(REQUEST).0
}

pub(super) fn request(key: &RequestKey) -> Vec<u8> {
    let of_caller = Key::new(REQUEST).text(key.tenant.as_str()).text(key.method).text(&key.actor);
    of_caller.bytes(key.request_id.as_bytes()).0
}

pub(super) fn agents() -> Vec<u8> {
    Key::new(AGENT).0
}

pub(super) fn agent(id: &AgentId) -> Vec<u8> {
    Key::new(AGENT).bytes(id.as_str().as_bytes()).0
}

pub(super) fn tokens() -> Vec<u8> {
    Key::new(TOKEN).0
}

pub(super) fn token(id: TokenId) -> Vec<u8> {
    Key::new(TOKEN).bytes(&id.to_bytes()).0
}

pub(super) fn bootstrap_tokens() -> Vec<u8> {
    Key::new(BOOTSTRAP).0
}

pub(super) fn bootstrap_token(id: TokenId) -> Vec<u8> {
    Key::new(BOOTSTRAP).bytes(&id.to_bytes()).0
}

pub(super) fn all_key_uses() -> Vec<u8> {
    Key::new(KEY_USES).0
}

pub(super) fn key_uses(id: SubscriptionId) -> Vec<u8> {
    Key::new(KEY_USES).bytes(&id.to_bytes()).0
}

pub(super) fn token_use(id: TokenId) -> Vec<u8> {
    Key::new(TOKEN_USE).bytes(&id.to_bytes()).0
}

pub(super) fn operations() -> Vec<u8> {
    Key::new(OPERATION).0
}

pub(super) fn operation(id: OperationId) -> Vec<u8> {
    Key::new(OPERATION).bytes(&id.to_bytes()).0
}

/// Where a tenant's operations are.
pub(super) fn operations_of(tenant: &str) -> Vec<u8> {
    Key::new(OPERATION_OF_TENANT).text(tenant).0
}

pub(super) fn operation_of(tenant: &str, id: OperationId) -> Vec<u8> {
    Key::new(OPERATION_OF_TENANT).text(tenant).bytes(&id.to_bytes()).0
}

/// There when every operation has a row among its tenant's.
pub(super) fn operations_listed() -> Vec<u8> {
    meta("operations-listed")
}

/// The id at the end of an operation's key.
pub(super) fn operation_id(key: &[u8]) -> Option<OperationId> {
    let (_, tail) = key.split_last_chunk::<16>()?;
    Some(OperationId::from_bytes(*tail))
}

pub(super) fn pools() -> Vec<u8> {
    Key::new(POOL).0
}

pub(super) fn pool(name: &PoolName) -> Vec<u8> {
    Key::new(POOL).bytes(name.as_str().as_bytes()).0
}

pub(super) fn join_tokens() -> Vec<u8> {
    Key::new(JOIN_TOKEN).0
}

pub(super) fn join_token(id: TokenId) -> Vec<u8> {
    Key::new(JOIN_TOKEN).bytes(&id.to_bytes()).0
}

pub(super) fn identities() -> Vec<u8> {
    Key::new(IDENTITY).0
}

pub(super) fn identity(agent: &AgentId) -> Vec<u8> {
    Key::new(IDENTITY).bytes(agent.as_str().as_bytes()).0
}

pub(super) fn authorities() -> Vec<u8> {
    Key::new(AUTHORITY).0
}

pub(super) fn authority(pin: Pin) -> Vec<u8> {
    Key::new(AUTHORITY).bytes(&pin.to_bytes()).0
}

pub(super) fn audit_records() -> Vec<u8> {
    Key::new(AUDIT).0
}

pub(super) fn audit_record(sequence: u64) -> Vec<u8> {
    Key::new(AUDIT).number(sequence).0
}

/// Where a tenant's records are in the log.
pub(super) fn audit_of(tenant: &TenantId) -> Vec<u8> {
    Key::new(AUDIT_OF_TENANT).text(tenant.as_str()).0
}

pub(super) fn audit_record_of(tenant: &TenantId, number: u64) -> Vec<u8> {
    Key::new(AUDIT_OF_TENANT).text(tenant.as_str()).number(number).0
}

/// The number at the end of a delivery's, a due or an audit record's key.
pub(super) fn sequence(key: &[u8]) -> Option<u64> {
    let (_, tail) = key.split_last_chunk::<8>()?;
    Some(u64::from_be_bytes(*tail))
}

/// The event's key at the end of an event row's key.
pub(super) fn event_key(key: &[u8]) -> Option<EventKey> {
    let (_, tail) = key.split_last_chunk::<16>()?;
    Some(EventKey::from_bytes(*tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A deletion must not forget a kind: whoever adds one says here whose it is, and there how it goes.
    #[test]
    fn every_kind_is_known_to_deletions() {
        let source = include_str!("key.rs");
        let letter = |line: &str| line.split_once(": u8 = b'").and_then(|(_, rest)| rest.bytes().next());
        let mut kinds: Vec<u8> =
            source.lines().filter(|line| line.starts_with("const ")).filter_map(letter).collect();
        let mut known = [&OF_TENANT[..], &OF_SUBSCRIPTION, &OTHERS].concat();
        kinds.sort_unstable();
        known.sort_unstable();
        assert_eq!(kinds, known);
        let id = SubscriptionId::from_bytes([7; 16]);
        let mut of_lane: Vec<u8> =
            of_subscription(id).iter().chain(&lane_of(id)).filter_map(|key| key.first().copied()).collect();
        of_lane.sort_unstable();
        let mut expected = OF_SUBSCRIPTION.to_vec();
        expected.sort_unstable();
        assert_eq!(of_lane, expected);
    }
}
