//! Who may do what: roles, what each permits, and the tenant to which a caller may be confined.

use std::str::FromStr;

use crate::id::TenantId;

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Look at what is there, secrets excepted.
    Read,
    /// Hand over events.
    Emit,
    /// Change subscriptions, keys, event types and deliveries.
    Operate,
    /// See a signing secret again.
    Reveal,
    /// Tenants, tokens, agents' enrollment, the audit log, keys at rest, backups.
    Administer,
}

/// What a caller is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Everything.
    Admin,
    /// Daily work: everything but tenants, tokens, agents' enrollment and revealing secrets.
    Operator,
    /// A service that emits, and does nothing else.
    Emitter,
    /// Looks, and changes nothing.
    Viewer,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Operator, Self::Emitter, Self::Viewer];

    /// Whether the role may make calls of this kind.
    #[must_use]
    pub fn permits(self, permission: Permission) -> bool {
        use Permission::{Emit, Operate, Read};
        match self {
            Self::Admin => true,
            Self::Operator => matches!(permission, Read | Emit | Operate),
            Self::Emitter => permission == Emit,
            Self::Viewer => permission == Read,
        }
    }

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Emitter => "emitter",
            Self::Viewer => "viewer",
        }
    }
}

impl FromStr for Role {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or("must be admin, operator, emitter or viewer")
    }
}

/// Whose things a caller can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Nobody's.
    Nothing,
    /// One tenant's: for the caller, others do not exist.
    Tenant(TenantId),
    /// Everybody's.
    Everything,
}

impl Scope {
    /// Whether the tenant exists for the caller.
    #[must_use]
    pub fn sees(&self, tenant: &TenantId) -> bool {
        match self {
            Self::Nothing => false,
            Self::Tenant(own) => own == tenant,
            Self::Everything => true,
        }
    }

    /// The tenant to which it is confined.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::Tenant(tenant) => Some(tenant),
            Self::Everything | Self::Nothing => None,
        }
    }

    /// Whether a caller with this scope may give the other one away.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Everything, _) | (_, Self::Nothing) => true,
            (Self::Tenant(own), Self::Tenant(other)) => own == other,
            (Self::Tenant(_), Self::Everything) | (Self::Nothing, _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_permit_what_the_documentation_says() {
        use Permission::{Administer, Emit, Operate, Read, Reveal};
        let table = [
            (Role::Admin, vec![Read, Emit, Operate, Reveal, Administer]),
            (Role::Operator, vec![Read, Emit, Operate]),
            (Role::Emitter, vec![Emit]),
            (Role::Viewer, vec![Read]),
        ];
        for (role, permitted) in table {
            for permission in [Read, Emit, Operate, Reveal, Administer] {
                assert_eq!(
                    role.permits(permission),
                    permitted.contains(&permission),
                    "{role:?} {permission:?}"
                );
            }
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().is_err());
    }

    #[test]
    fn a_scope_sees_its_own_tenant_and_gives_away_no_more_than_itself() {
        let (a, b): (TenantId, TenantId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let own = Scope::Tenant(a.clone());
        assert!(own.sees(&a) && !own.sees(&b) && Scope::Everything.sees(&b) && !Scope::Nothing.sees(&a));
        assert!(
            own.covers(&own)
                && Scope::Everything.covers(&own)
                && Scope::Everything.covers(&Scope::Everything)
        );
        assert!(
            !own.covers(&Scope::Everything) && !own.covers(&Scope::Tenant(b)) && !Scope::Nothing.covers(&own)
        );
    }
}
