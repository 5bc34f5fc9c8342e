//! Secrets at rest: what is secret leaves this module sealed, and comes back to it to be opened.
//!
//! The store sees sealed values only. They are sealed with a *data key*, which lies beside them wrapped by a
//! key-encryption key (KEK) from outside: so a KEK's owner is asked at the start and at a rewrap, not for each value.

mod sealer;

pub use self::sealer::Sealer;
