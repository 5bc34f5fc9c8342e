//! Answers to validation handshakes: `postrider.v1.EndpointValidation` ⇄ [`Validation`].

use postrider_domain::validation::{State, Validation};
use postrider_domain::violation::Violation;

use crate::time;
use crate::v1::{EndpointValidation, ValidationState};

/// An answer, written.
#[must_use]
pub fn write(validation: &Validation) -> EndpointValidation {
    let state = match validation.state {
        State::Validated => ValidationState::Validated,
        State::Refused => ValidationState::Refused,
        State::Unreachable => ValidationState::Unreachable,
    };
    EndpointValidation {
        state: state.into(),
        time: Some(time::write(validation.time)),
        detail: validation.detail.clone(),
        allowed_origin: validation.allowed_origin.clone(),
        allowed_rate_per_minute: validation.allowed_rate.unwrap_or(0),
    }
}

/// An answer, read; `None` when nothing was asked.
///
/// # Errors
/// A violation when its time is none.
pub fn read(wire: &EndpointValidation) -> Result<Option<Validation>, Violation> {
    let state = match wire.state() {
        ValidationState::Unspecified => return Ok(None),
        ValidationState::Validated => State::Validated,
        ValidationState::Refused => State::Refused,
        ValidationState::Unreachable => State::Unreachable,
    };
    let time = wire.time.as_ref().map(|wire| time::read("validation.time", wire)).transpose()?;
    Ok(Some(Validation {
        state,
        time: time.unwrap_or_default(),
        detail: wire.detail.clone(),
        allowed_origin: wire.allowed_origin.clone(),
        allowed_rate: (wire.allowed_rate_per_minute > 0).then_some(wire.allowed_rate_per_minute),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::time::Timestamp;

    #[test]
    fn answers_read_back() {
        let validation = Validation {
            state: State::Validated,
            time: Timestamp::from_millis(1_770_028_200_123),
            detail: "look".into(),
            allowed_origin: "*".into(),
            allowed_rate: Some(60),
        };
        let none = Validation { state: State::Refused, allowed_rate: None, ..validation.clone() };
        let away = Validation::unreachable("no agent", Timestamp::default());
        for validation in [validation, none, away] {
            assert_eq!(read(&write(&validation)), Ok(Some(validation)));
        }
        assert_eq!(read(&EndpointValidation::default()), Ok(None));
    }
}
