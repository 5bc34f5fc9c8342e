//! How many streams watch deliveries: so many of a token, and so many of all tokens that are
//! confined to one tenant.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::HashMap;

use crate::metrics::reads::ReadCounts;
use crate::reads::{Name, Reader};

/// How many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Of a token.
    pub of_token: usize,
    /// Of all tokens that are confined to one tenant.
    pub of_tenant: usize,
}

impl Default for Allowed {
    fn default() -> Self {
        Self { of_token: 16, of_tenant: 64 }
    }
}

/// Why there is no room for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMany {
    /// The token has so many.
    OfToken(usize),
    /// The tokens of its tenant have so many.
    OfTenant(usize),
}

/// Counts them.
pub struct Watchers {
    allowed: Allowed,
    open: Mutex<HashMap<Name, usize>>,
    counts: ReadCounts,
}

/// A stream that watches. It counts until this is dropped.
#[must_use]
pub struct Watching {
    watchers: Arc<Watchers>,
    reader: Reader,
}

impl Watchers {
    /// Nobody watches yet.
    #[must_use]
    pub fn new(allowed: Allowed, counts: ReadCounts) -> Self {
        Self { allowed, open: Mutex::default(), counts }
    }

    /// Counts another one.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn enter(self: &Arc<Self>, reader: &Reader) -> Result<Watching, TooMany> {
        let mut open = self.open();
        let count = |name: &Name| open.get(name).copied().unwrap_or(0);
        let Allowed { of_token, of_tenant } = self.allowed;
        let refused = if count(&reader.member) >= of_token {
            Some(TooMany::OfToken(of_token))
        } else if reader.party != reader.member && count(&reader.party) >= of_tenant {
            Some(TooMany::OfTenant(of_tenant))
        } else {
            None
        };
        if let Some(refused) = refused {
            self.counts.too_many_watchers(refused);
            return Err(refused);
        }
        for name in names(reader) {
            *open.entry(name.clone()).or_default() += 1;
        }
        self.counts.watches(1);
        Ok(Watching { watchers: self.clone(), reader: reader.clone() })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Name, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Under which names a watcher counts: one, if its token is its own party.
fn names(reader: &Reader) -> impl Iterator<Item = &Name> {
    let tenant = (reader.party != reader.member).then_some(&reader.party);
    std::iter::once(&reader.member).chain(tenant)
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut open = self.watchers.open();
        for name in names(&self.reader) {
            if let Some(count) = open.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    open.remove(name);
                }
            }
        }
        self.watchers.counts.watches(-1);
    }
}

#[cfg(test)]
mod tests {
    use postrider_domain::turns::Who;

    use super::*;

    #[test]
    fn a_token_and_a_tenant_have_so_many_and_no_more() {
        let watchers = Arc::new(Watchers::new(Allowed { of_token: 2, of_tenant: 3 }, ReadCounts::default()));
        let token = |name: &str| Name::Token(name.into());
        let own = |name: &str| Who { party: Name::Tenant("acme".parse().unwrap()), member: token(name) };
        let free = |name: &str| Who { party: token(name), member: token(name) };
        let mut first = vec![watchers.enter(&own("a")).unwrap(), watchers.enter(&own("a")).unwrap()];
        assert_eq!(watchers.enter(&own("a")).err(), Some(TooMany::OfToken(2)));
        let _third = watchers.enter(&own("b")).unwrap();
        assert_eq!(watchers.enter(&own("b")).err(), Some(TooMany::OfTenant(3)));
        let _others = [watchers.enter(&free("c")).unwrap(), watchers.enter(&free("c")).unwrap()];
        assert_eq!(watchers.enter(&free("c")).err(), Some(TooMany::OfToken(2)));
        drop(first.pop());
        drop(watchers.enter(&own("b")).unwrap());
        first.clear();
        assert_eq!(watchers.open().len(), 3, "those of acme, b and c are left");
    }
}
