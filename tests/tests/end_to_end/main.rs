//! Postrider from the outside: real binaries, real sockets, and receivers that nobody here wrote.
//!
//! A file a subject. Tests that put a load on the machine take turns ([`postrider_tests::turn`]).

mod access;
mod admin;
mod backup;
mod bench;
mod catalogue;
mod command;
mod command_tools;
mod declarative;
mod dev;
mod doctor;
mod egress;
mod endpoints;
mod fair_share;
mod floods;
mod health;
mod idempotency;
mod inboxes;
mod isolation;
mod keys;
mod kills;
mod languages;
mod libraries;
mod lifecycle;
mod limits;
mod links;
mod looks;
mod matching;
mod order;
mod pace;
mod pools;
mod profiles;
mod protos;
mod readme;
mod replay;
mod restarts;
mod rolls;
mod secrets;
mod settings;
mod streams;
mod tail;
mod tenants;
mod traces;
mod trust;
