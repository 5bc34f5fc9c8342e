//! Postrider on the wire.
//!
//! [`v1`] is the public API, [`agent`] the link to agents, [`store`] what the stores keep. The modules
//! beside them turn wire messages into domain values and back; nothing else in Postrider does.

pub mod attempt;
pub mod delivery;
pub mod diagnosis;
pub mod event_type;
pub mod health;
pub mod operation;
pub mod pool;
pub mod session;
pub mod signature_profile;
pub mod signing_key;
pub mod subscription;
pub mod tenant;
pub mod time;
pub mod validation;

#[expect(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated; the contract is in the .proto files"
)]
mod generated {
    pub mod postrider {
        pub mod v1 {
            tonic::include_proto!("postrider.v1");
        }
        pub mod agent {
            pub mod v1 {
                tonic::include_proto!("postrider.agent.v1");
            }
        }
        pub mod store {
            pub mod v1 {
                tonic::include_proto!("postrider.store.v1");
            }
        }
    }
}

pub use generated::postrider::agent::v1 as agent;
pub use generated::postrider::store::v1 as store;
pub use generated::postrider::v1;

/// Every `.proto` file, compiled, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
