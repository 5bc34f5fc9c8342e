//! The list of tenants that may use a pool. The list is the only wall between a tenant and the networks and
//! credentials of another tenant's agents, so an absent entry always means no.

use std::collections::BTreeSet;
use std::fmt;

use crate::id::{PoolName, TenantId};
use crate::violation::Violation;

/// How the list of every tenant is written.
pub const EVERY_TENANT: &str = "*";
/// The most tenants that one pool can list by name.
pub const MAX_TENANTS: usize = 1000;

/// How many names a text for people lists at most.
const SHOWN: usize = 20;

/// The tenants whose subscriptions may use a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenants {
    /// Every tenant, also those that are created later.
    Every,
    /// These alone; an empty list means nobody.
    Only(BTreeSet<TenantId>),
}

impl Tenants {
    /// Nobody.
    #[must_use]
    pub fn none() -> Self {
        Self::Only(BTreeSet::new())
    }

    /// The list of a pool that was never created.
    #[must_use]
    pub fn of_uncreated(name: &PoolName) -> Self {
        if *name == PoolName::default_pool() { Self::Every } else { Self::none() }
    }

    /// Whether this tenant may use the pool.
    #[must_use]
    pub fn allow(&self, tenant: &TenantId) -> bool {
        match self {
            Self::Every => true,
            Self::Only(tenants) => tenants.contains(tenant),
        }
    }

    /// Whether nobody may use the pool.
    #[must_use]
    pub fn are_none(&self) -> bool {
        matches!(self, Self::Only(tenants) if tenants.is_empty())
    }

    /// Reads a list as users write it.
    ///
    /// # Errors
    /// Every entry that is no tenant's id, and an [`EVERY_TENANT`] that has company.
    pub fn read<T: AsRef<str>>(field: &str, entries: &[T]) -> Result<Self, Vec<Violation>> {
        if entries.iter().any(|entry| entry.as_ref() == EVERY_TENANT) {
            let alone = entries.len() == 1;
            let problem = "must hold nothing else when it holds *, which means every tenant";
            return if alone { Ok(Self::Every) } else { Err(vec![Violation::new(field, problem)]) };
        }
        let (mut tenants, mut violations) = (BTreeSet::new(), Vec::new());
        for entry in entries {
            match entry.as_ref().parse::<TenantId>() {
                Ok(tenant) => {
                    tenants.insert(tenant);
                }
                Err(error) => violations.push(Violation::new(field, error.to_string())),
            }
        }
        if violations.is_empty() { Ok(Self::Only(tenants)) } else { Err(violations) }
    }

    /// The list as users write it.
    #[must_use]
    pub fn write(&self) -> Vec<String> {
        match self {
            Self::Every => vec![EVERY_TENANT.to_owned()],
            Self::Only(tenants) => tenants.iter().map(ToString::to_string).collect(),
        }
    }

    /// The list with some tenants more and some less. A tenant in both is refused.
    ///
    /// # Errors
    /// When the list is of every tenant, from which none can be left out, or a tenant is added and removed.
    pub fn changed(&self, added: &[TenantId], removed: &[TenantId]) -> Result<Self, Violation> {
        if added.is_empty() && removed.is_empty() {
            return Ok(self.clone());
        }
        let Self::Only(tenants) = self else {
            let field = if added.is_empty() { "remove_tenants" } else { "add_tenants" };
            let problem = "cannot change a list of every tenant; replace the list instead (`postrider pools update \
                           --no-tenants --add-tenant TENANT`)";
            return Err(Violation::new(field, problem));
        };
        if let Some(tenant) = added.iter().find(|tenant| removed.contains(tenant)) {
            return Err(Violation::new("remove_tenants", format!("names {tenant}, as add_tenants does")));
        }
        let mut tenants = tenants.clone();
        tenants.extend(added.iter().cloned());
        tenants.retain(|tenant| !removed.contains(tenant));
        Ok(Self::Only(tenants))
    }

    /// The tenants that a newer list names and this one does not; every tenant is no name.
    #[must_use]
    pub fn added_by(&self, newer: &Self) -> Vec<TenantId> {
        match newer {
            Self::Every => Vec::new(),
            Self::Only(tenants) => tenants.iter().filter(|tenant| !self.names(tenant)).cloned().collect(),
        }
    }

    fn names(&self, tenant: &TenantId) -> bool {
        matches!(self, Self::Only(tenants) if tenants.contains(tenant))
    }

    pub(super) fn violation(&self) -> Option<Violation> {
        let problem = || format!("must have at most {MAX_TENANTS} entries; * means every tenant");
        match self {
            Self::Only(tenants) if tenants.len() > MAX_TENANTS => Some(Violation::new("tenants", problem())),
            _ => None,
        }
    }
}

impl fmt::Display for Tenants {
    /// For people: bounded, whatever the list holds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every => f.write_str("every tenant"),
            Self::Only(tenants) if tenants.is_empty() => f.write_str("no tenant"),
            Self::Only(tenants) => {
                let shown: Vec<&str> = tenants.iter().take(SHOWN).map(TenantId::as_str).collect();
                f.write_str(&shown.join(", "))?;
                match tenants.len().saturating_sub(SHOWN) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    fn only(names: &[&str]) -> Tenants {
        Tenants::Only(names.iter().map(|name| tenant(name)).collect())
    }

    #[test]
    fn only_those_that_are_listed_may_use_a_pool() {
        let table = [
            (Tenants::none(), "acme", false),
            (Tenants::Every, "acme", true),
            (only(&["acme"]), "acme", true),
            (only(&["acme"]), "acm", false),
            (only(&["acme"]), "acme2", false),
            (only(&["acme", "globex"]), "globex", true),
            (Tenants::of_uncreated(&"acme".parse().unwrap()), "acme", false),
            (Tenants::of_uncreated(&PoolName::default_pool()), "acme", true),
        ];
        for (tenants, name, allowed) in table {
            assert_eq!(tenants.allow(&tenant(name)), allowed, "{tenants:?} {name}");
        }
    }

    #[test]
    fn a_list_reads_back_and_every_tenant_stands_alone() {
        for tenants in [Tenants::none(), Tenants::Every, only(&["acme", "globex"])] {
            assert_eq!(Tenants::read("tenants", &tenants.write()), Ok(tenants));
        }
        for bad in [&["*", "acme"][..], &["acme", "*"], &["*", "*"], &["Not One"], &[""], &["a*"]] {
            let violations = Tenants::read("tenants", bad).unwrap_err();
            assert_eq!((violations.len(), violations[0].field.as_str()), (1, "tenants"), "{bad:?}");
        }
    }

    #[test]
    fn tenants_are_added_and_removed_and_every_tenant_is_no_list() {
        let (a, b) = (tenant("a"), tenant("b"));
        let list = only(&["a"]);
        let table = [
            (vec![b.clone()], vec![], only(&["a", "b"])),
            (vec![a.clone()], vec![], only(&["a"])),
            (vec![], vec![a.clone()], Tenants::none()),
            (vec![b.clone()], vec![a.clone()], only(&["b"])),
            (vec![], vec![b.clone()], only(&["a"])),
            (vec![], vec![], only(&["a"])),
        ];
        for (added, removed, expected) in table {
            assert_eq!(list.changed(&added, &removed), Ok(expected), "{added:?} {removed:?}");
        }
        assert!(list.changed(std::slice::from_ref(&b), std::slice::from_ref(&b)).is_err());
        assert!(Tenants::Every.changed(std::slice::from_ref(&b), &[]).is_err());
        assert!(Tenants::Every.changed(&[], std::slice::from_ref(&b)).is_err());
        assert_eq!(list.added_by(&only(&["a", "b"])), vec![tenant("b")]);
        assert_eq!(Tenants::Every.added_by(&only(&["b"])), [b]);
        assert_eq!(list.added_by(&Tenants::Every), []);
    }

    #[test]
    fn what_people_read_is_bounded() {
        let many = Tenants::Only((0..MAX_TENANTS + 1).map(|number| tenant(&format!("t{number}"))).collect());
        assert!(many.to_string().ends_with(" and 981 more"), "{many}");
        assert!(many.violation().is_some() && only(&["a"]).violation().is_none());
        assert_eq!(
            (Tenants::none().to_string(), Tenants::Every.to_string()),
            ("no tenant".into(), "every tenant".into())
        );
    }
}
