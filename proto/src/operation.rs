//! The states of operations.

use postrider_domain::operation::State;

use crate::v1::OperationState;

/// As it is sent and stored.
#[must_use]
pub fn write_state(state: State) -> OperationState {
    match state {
        State::Running => OperationState::Running,
        State::Paused => OperationState::Paused,
        State::Done => OperationState::Done,
        State::Cancelled => OperationState::Cancelled,
    }
}

/// What was written. One of a later version's states is left alone, as if it were held.
#[must_use]
pub fn read_state(state: OperationState) -> State {
    match state {
        OperationState::Running => State::Running,
        OperationState::Paused | OperationState::Unspecified => State::Paused,
        OperationState::Done => State::Done,
        OperationState::Cancelled => State::Cancelled,
    }
}
