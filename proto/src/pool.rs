//! Pools: `postrider.v1.Pool` ⇄ [`Settings`].

use postrider_domain::id::PoolName;
use postrider_domain::pool::{DEFAULT_FALLBACK_AFTER, Settings, Tenants};
use postrider_domain::violation::Violation;

use crate::time;
use crate::v1::Pool;

/// A pool's settings, written with its name; what the server adds is unset.
#[must_use]
pub fn write(name: &PoolName, settings: &Settings) -> Pool {
    Pool {
        name: name.to_string(),
        description: settings.description.clone(),
        fallback_pool: settings.fallback.as_ref().map(ToString::to_string).unwrap_or_default(),
        fallback_after: Some(time::write_duration(settings.fallback_after)),
        tenants: settings.tenants.write(),
        ..Pool::default()
    }
}

/// A pool's settings, read: what is unset takes its default.
///
/// # Errors
/// Every problem in a field that cannot be read.
pub fn read(wire: &Pool) -> Result<Settings, Vec<Violation>> {
    let mut violations = Vec::new();
    let mut keep = |violation: Violation| violations.push(violation);
    let fallback = match wire.fallback_pool.as_str() {
        "" => None,
        name => name
            .parse()
            .map_err(|error: postrider_domain::id::IdError| {
                keep(Violation::new("fallback_pool", error.to_string()));
            })
            .ok(),
    };
    let after = wire.fallback_after.as_ref().map(|wire| time::read_duration("fallback_after", wire));
    let fallback_after = after.transpose().unwrap_or_else(|violation| {
        keep(violation);
        None
    });
    let tenants = Tenants::read("tenants", &wire.tenants).unwrap_or_else(|found| {
        violations.extend(found);
        Tenants::none()
    });
    if !violations.is_empty() {
        return Err(violations);
    }
    Ok(Settings {
        description: wire.description.clone(),
        fallback,
        fallback_after: fallback_after.unwrap_or(DEFAULT_FALLBACK_AFTER),
        tenants,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn settings_read_back() {
        let name: PoolName = "edge".parse().unwrap();
        let settings = Settings {
            description: "At the edge.".into(),
            fallback: Some(PoolName::default_pool()),
            fallback_after: Duration::from_secs(5),
            tenants: Tenants::Only(["acme".parse().unwrap()].into()),
        };
        assert_eq!(read(&write(&name, &settings)), Ok(settings));
        let everybody = Settings { tenants: Tenants::Every, ..Settings::default() };
        assert_eq!(read(&write(&name, &everybody)), Ok(everybody));
        assert_eq!(read(&Pool::default()), Ok(Settings::default()));
        let bad = Pool { fallback_pool: "No Good".into(), ..Pool::default() };
        assert_eq!(read(&bad).unwrap_err()[0].field, "fallback_pool");
        let bad = Pool { tenants: vec!["*".into(), "acme".into()], ..Pool::default() };
        assert_eq!(read(&bad).unwrap_err()[0].field, "tenants");
    }
}
