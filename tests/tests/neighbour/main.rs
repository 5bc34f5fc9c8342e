//! The honest neighbour: while another tenant does its worst, by tokens, agents or endpoints, one tenant's events arrive
//! as they did before, and the control plane stays small.
//!
//! A file a kind of attacker. The attacks take turns: two at once would measure each other.

mod agents;
mod endpoints;
mod honest;
mod steady;
mod street;
mod tokens;
