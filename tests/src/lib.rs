//! What the end-to-end tests are made of: a world of real processes, receivers that log every POST, an emitter
//! that remembers what was acknowledged, and a checker that compares both.
//!
//! A [`world::World`] is one test's own: its folder, its ports, its processes; all of it ends with the test.
//! Nothing here knows Postrider's insides: it starts binaries, calls the API and listens.

pub mod api;
pub mod applicant;
pub mod binaries;
pub mod certificates;
pub mod checker;
pub mod cli;
pub mod clock;
pub mod collector;
pub mod emitter;
pub mod forward_proxy;
pub mod frames;
pub mod ledger;
pub mod planted;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod receiver;
pub mod scrape;
pub mod threads;
pub mod tools;
pub mod turn;
pub mod wait;
pub mod world;
