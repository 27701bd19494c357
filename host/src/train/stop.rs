//! Why a run ended early, and whether this rank has to inform the others.

use crate::exit::Failure;

/// Why a run ended early.
pub(super) enum Stop {
    /// Every rank finds this reason by itself, so none has to inform the others.
    Together(Failure),
    /// A failure of this rank alone: it has to inform the others.
    Alone(Failure),
}

impl Stop {
    /// The failure without that distinction.
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
