//! Counts the HTTP/2 frames that a peer sends, so that those that carry no body can be bounded.
//!
//! HTTP/2 bounds the bytes of bodies by flow control, and nothing bounds the rest: interim responses, settings, pings,
//! priorities, window updates, frames of unknown types, empty and padded DATA. A peer that sends those without end keeps
//! a processor busy for free. [`Reader`] counts what passes; [`answers`] says how much of it a server may send, and
//! [`calls`] how much a client may. The callers wrap a connection and read it through these; nothing here does I/O.

pub mod answers;
pub mod calls;

/// A frame's length, type, flags and stream. Source: RFC 9113, section 4.1.
const HEAD: usize = 9;
const DATA: u8 = 0;
/// The flag of a DATA frame whose first byte says how much padding it has.
const PADDED: u8 = 8;
/// What a piece of a body counts at the least, so that pieces of one byte are not free.
const SMALLEST_PIECE: u64 = 16;
/// The bytes before each gRPC message. A client sends them at once, with the message or without.
/// Source: gRPC over HTTP/2, "Length-Prefixed-Message".
const GRPC_PREFIX: u32 = 5;

/// Frames that were sent, or that may be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Frames that carry no byte of a body.
    pub frames: u64,
    /// Bytes of those frames with their heads, and the padding of the others.
    pub bytes: u64,
    /// Bytes of bodies, a small piece counted as `SMALLEST_PIECE`.
    pub body: u64,
}

impl Amount {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Amount) -> Amount {
        self.each(other, u64::saturating_add)
    }

    /// So many times this.
    #[must_use]
    pub fn times(self, number: u64) -> Amount {
        self.each(Amount { frames: number, bytes: number, body: number }, u64::saturating_mul)
    }

    /// No more than the other, part by part.
    #[must_use]
    pub fn at_most(self, most: Amount) -> Amount {
        self.each(most, u64::min)
    }

    /// What is left of this; `None` when any part is not enough.
    #[must_use]
    pub fn less(self, other: Amount) -> Option<Amount> {
        Some(Amount {
            frames: self.frames.checked_sub(other.frames)?,
            bytes: self.bytes.checked_sub(other.bytes)?,
            body: self.body.checked_sub(other.body)?,
        })
    }

    fn each(self, other: Amount, of: impl Fn(u64, u64) -> u64) -> Amount {
        Amount {
            frames: of(self.frames, other.frames),
            bytes: of(self.bytes, other.bytes),
            body: of(self.body, other.body),
        }
    }
}

/// The peer has sent more frames outside bodies than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent too many HTTP/2 frames that carry no body")]
pub struct TooMany;

/// Finds the frames in what is read from a connection, after the client's preface if it comes from a client.
///
/// A frame counts as soon as its head is there, padded DATA with the length of the padding. How the bytes are cut into
/// pieces makes no difference.
#[derive(Clone, Debug)]
pub struct Reader {
    /// DATA with fewer bytes of a body than this counts as a frame that carries none.
    fewest: u32,
    head: [u8; HEAD],
    /// How much of the head is there.
    there: usize,
    /// Bytes of the frame that are still to come.
    rest: u32,
    /// The next byte is the length of the padding of a DATA frame of this length.
    padded: Option<u32>,
}

impl Default for Reader {
    /// For any HTTP/2 connection.
    fn default() -> Reader {
        Reader { fewest: 1, head: [0; HEAD], there: 0, rest: 0, padded: None }
    }
}

impl Reader {
    /// For what the client of a gRPC server sends: DATA that is shorter than the prefix of a message counts as a frame
    /// that carries no body. A library splits a message so when a window closes; a flood consists of such pieces.
    #[must_use]
    pub fn of_grpc_client() -> Reader {
        Reader { fewest: GRPC_PREFIX, ..Reader::default() }
    }

    /// Reads on, and gives what began in `bytes`.
    pub fn read(&mut self, mut bytes: &[u8]) -> Amount {
        let mut amount = Amount::default();
        while let Some(&first) = bytes.first() {
            let taken = if let Some(length) = self.padded.take() {
                amount = amount.plus(self.of_data(length, Some(first)));
                self.rest = length - 1;
                1
            } else if self.rest > 0 {
                self.skip(bytes.len())
            } else {
                let taken = bytes.len().min(HEAD - self.there);
                self.head[self.there..self.there + taken].copy_from_slice(&bytes[..taken]);
                self.there += taken;
                if self.there == HEAD {
                    self.there = 0;
                    amount = amount.plus(self.begin());
                }
                taken
            };
            bytes = &bytes[taken..];
        }
        amount
    }

    fn skip(&mut self, there: usize) -> usize {
        let skipped = u32::try_from(there).unwrap_or(u32::MAX).min(self.rest);
        self.rest -= skipped;
        usize::try_from(skipped).expect("it is no more than what is there")
    }

    /// A head is there.
    fn begin(&mut self) -> Amount {
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        if kind == DATA && flags & PADDED != 0 && length > 0 {
            self.padded = Some(length);
            return Amount::default();
        }
        self.rest = length;
        if kind == DATA { self.of_data(length, None) } else { outside(length) }
    }

    /// What a DATA frame of this length counts, of which so much is padding.
    fn of_data(&self, length: u32, padding: Option<u8>) -> Amount {
        let padding = padding.map_or(0, |padding| 1 + u32::from(padding));
        let body = length.saturating_sub(padding);
        if body < self.fewest {
            return outside(length);
        }
        Amount { frames: 0, bytes: u64::from(length - body), body: u64::from(body).max(SMALLEST_PIECE) }
    }
}

/// What a frame of this length counts that carries no body.
fn outside(length: u32) -> Amount {
    Amount { frames: 1, bytes: HEAD as u64 + u64::from(length), body: 0 }
}

#[cfg(test)]
mod tests;
