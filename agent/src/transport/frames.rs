//! What a server may send on an HTTP/2 connection beside bodies, shared by the connection and its requests.
//!
//! The connection's task counts what it reads; each request holds a [`Turn`] from before it is sent until its response was
//! read. The rules are [`Answers`]'.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use postrider_domain::frames::answers::Answers;
use postrider_domain::frames::{Amount, TooMany};

/// The allowance of one connection.
#[derive(Debug, Default)]
pub(crate) struct Frames(Mutex<Answers>);

/// A request on the connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn(Arc<Frames>);

impl Frames {
    /// A request is about to be sent.
    pub(crate) fn begin(self: &Arc<Frames>) -> Turn {
        self.answers().begin();
        Turn(Arc::clone(self))
    }

    /// This was read. An error ends the connection.
    pub(super) fn charge(&self, read: Amount) -> io::Result<()> {
        self.answers().charge(read).map_err(|TooMany| io::Error::other(TooMany))
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().expect("nothing panics while it holds this lock")
    }
}

impl Turn {
    /// Whether the connection was closed for what the server has sent.
    pub(crate) fn is_flooded(&self) -> bool {
        self.0.answers().is_exceeded()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.answers().end();
    }
}
