//! Postrider from the outside: real binaries, real sockets, and receivers that nobody here wrote.
//!
//! A file a subject. Tests that put a load on the machine take turns ([`postrider_tests::turn`]).

mod access;
mod command;
mod command_tools;
mod dev;
mod egress;
mod endpoints;
<<<<<<< HEAD
=======
>>>>>>> 940c00c (Clients' certificates are shown in each handshake; slow handshakes, crowds and places, tested against the real program)
mod fair_share;
mod fairness;
mod floods;
mod idempotency;
mod isolation;
mod kills;
mod languages;
mod libraries;
mod lifecycle;
mod limits;
mod links;
mod protos;
mod readme;
mod restarts;
mod rolls;
mod streams;
mod trust;
