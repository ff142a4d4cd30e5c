//! What can go wrong with a store, in terms a caller can act on.

/// A store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker did not answer within the budget, or is not connected. Whether a write happened is unknown: repeat it, with the same
    /// content, or read.
    #[error("the broker did not answer while {doing}")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// The deeper cause.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The store's limit is reached. Nothing was written and nothing was dropped to make room.
    #[error("the store {store} is at its limit")]
    Full {
        /// Which.
        store: String,
    },
    /// The value is larger than a record may be. Nothing was written.
    #[error("the record has {bytes} bytes, more than the {max} a record may have")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// A stream or bucket that should exist does not, or has other settings than we rely on.
    #[error("the store {store} is not as it must be: {problem}")]
    Layout {
        /// Which.
        store: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A stored record cannot be read.
    #[error("the record {key} cannot be read")]
    Corrupt {
        /// Where.
        key: String,
        /// The deeper cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A stream is not the one any more that was read up to a place: it ends before that, or has something else there. It was restored from
    /// an earlier copy, lost its end in a power cut, or was made anew. What was read of it is to be forgotten and read again.
    #[error("the store {store} was set back: what was read of it is there no more")]
    SetBack {
        /// Which.
        store: String,
    },
    /// The broker refused for a reason of its own.
    #[error("the broker refused while {doing}: {reason}")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// Its words.
        reason: String,
    },
}

impl Error {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Full { .. } | Self::SetBack { .. } => true,
            Self::TooLarge { .. } | Self::Layout { .. } | Self::Corrupt { .. } | Self::Refused { .. } => false,
        }
    }

    /// Whether it is certain that nothing was written.
    #[must_use]
    pub fn had_no_effect(&self) -> bool {
        match self {
            Self::Unavailable { .. } => false,
            Self::Full { .. }
            | Self::TooLarge { .. }
            | Self::Layout { .. }
            | Self::Corrupt { .. }
            | Self::SetBack { .. }
            | Self::Refused { .. } => true,
        }
    }

    pub(crate) fn unavailable(doing: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Unavailable { doing, source: Some(Box::new(source)) }
    }
}
