//! What an agent may call: the rules that keep a tenant's URL from reaching what is not theirs.
//!
//! A subscription's URL is written by a tenant and fetched from inside somebody's network, so it is
//! judged twice. When it is saved, [`EndpointUrl::parse`] gives a clear error for what no agent would
//! accept. When an attempt is made, the agent judges the URL again by its owner's [`Policy`], resolves
//! the name once, judges every answer, and dials one of the very addresses that were judged.
//!
//! - [`url`] reads a URL once and keeps the canonical form, which is the only form ever sent;
//! - [`name`] knows which host names are valid, and which have no public meaning;
//! - [`address`] knows which addresses are public;
//! - [`destination`] is how an owner picks endpoints out, by name or by address, and by port;
//! - [`nat64`] reads addresses of a network's own NAT64;
//! - [`policy`] holds what the agent's owner allows and denies, and passes judgement;
//! - [`refusal`] is the judgement, in a code for machines and a sentence for people.
//!
//! Nothing here resolves a name or opens a socket. A [`Refusal`] may name an internal address: it is
//! for the agent's owner and the operator, and a tenant is shown only the outcome's coarse class.

pub mod address;
pub mod destination;
pub mod name;
pub mod nat64;
pub mod policy;
pub mod refusal;
pub mod url;

pub use self::destination::{Destination, Service};
pub use self::name::HostPattern;
pub use self::nat64::Nat64Prefix;
pub use self::policy::{CredentialHost, Policy};
pub use self::refusal::{Code, Refusal};
pub use self::url::{EndpointUrl, Host, Scheme};
