//! Why a run ended early, and whether the other ranks have to be told.

use crate::exit::Failure;

/// Why a run ended early.
pub(super) enum Stop {
    /// A reason that every rank finds by itself: none has to tell the others.
    Together(Failure),
    /// A failure of this rank, which the others have to be told.
    Alone(Failure),
}

impl Stop {
    /// The failure, for whoever has no other ranks.
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::Together(failure) | Self::Alone(failure) => failure,
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Alone(failure)
    }
}
