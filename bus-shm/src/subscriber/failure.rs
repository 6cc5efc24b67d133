//! How errors leave the hot path.

use crate::error::{ReceiveError, RegionError};

/// An error on its way out of the hot path: one pointer, so that results without an error stay in registers.
pub(crate) struct Failure(Box<ReceiveError>);

impl Failure {
    /// The operating system refused a mapping that was needed for an answer.
    #[cold]
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(&*self.0, ReceiveError::Region(error) if crate::reader::is_refusal(error))
    }
}

impl From<ReceiveError> for Failure {
    #[cold]
    fn from(error: ReceiveError) -> Self {
        Self(Box::new(error))
    }
}

impl From<RegionError> for Failure {
    #[cold]
    fn from(error: RegionError) -> Self {
        ReceiveError::from(error).into()
    }
}

impl From<Failure> for ReceiveError {
    #[cold]
    fn from(failure: Failure) -> Self {
        *failure.0
    }
}
