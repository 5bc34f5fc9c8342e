//! The end of a tenant, and what a tenant may use.

mod deletion;
mod quotas;
