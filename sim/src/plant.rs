//! Bugs that are planted on purpose: the measure of what the simulation is able to see. Each is a lie of the layer between a process and its
//! stores, host or notes, and makes the process behave as it would with that bug in its own code. None of them exists in a product crate.

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A start is recorded without its guard, whatever was written since the decision.
    StartUnguarded,
    /// A redelivery is decided on as if nothing had been recorded.
    LedgerNotFolded,
    /// Work begins although its start was not recorded.
    StartUnrecorded,
    /// A second answer takes the place of the first.
    AnswersOverwrite,
    /// An agent does not look at the expiry.
    ExpiryIgnored,
    /// An agent does not look at the earliest start.
    NotBeforeIgnored,
    /// An agent does not see that a job was cancelled.
    CancelIgnored,
    /// A claim is never extended.
    NeverExtended,
    /// Every delivery is taken for the proof that an earlier holder is gone.
    DeliveryIsPermission,
    /// What runs is declared lost after a few seconds.
    LostTooEarly,
    /// A failed attempt is repeated beyond the job's policy.
    PolicyIgnored,
    /// A failed attempt is repeated at once.
    BackoffIgnored,
    /// Nobody announces again what was lost on its way.
    NeverAnnouncedAgain,
    /// The notes forget the answers in them.
    NotedAnswerLost,
    /// An agent does not look at whether it is drained.
    DrainIgnored,
    /// Dead letters are not written.
    DeadLetterDropped,
    /// Idempotency keys are not reserved.
    KeyNotReserved,
    /// A job whose write failed is reported as accepted.
    FailureIsSuccess,
    /// The index misses an answer now and then.
    IndexMissesAnswers,
    /// A delete leaves the ledger's records.
    DeleteForgotten,
    /// A cancel is reported without having been recorded.
    CancelUnrecorded,
    /// An agent takes the work of a group that it does not belong to.
    GroupIgnored,
    /// Who is offered work again takes the newest attempt for the one whose claim was over, whatever it rests on.
    LapseProvesAll,
    /// An agent does not look at concurrency keys.
    TurnIgnored,
    /// Every holder of a turn has the same fence.
    FenceStandsStill,
    /// The last one that came under a concurrency key has the first turn.
    OrderIgnored,
    /// Nobody stores the shares that a crash left out.
    SharesForgotten,
    /// A reader that resumes a stream is told everything again.
    CursorForgotten,
    /// A reader that resumes a stream misses what came first.
    CursorRunsAhead,
    /// An agent whose clock is ahead is not believed to live.
    FutureNotBelieved,
    /// An agent's process tells when it began by its own clock, and when its work did by the broker's.
    StampsMixed,
    /// A read of a job now and then shows what the first one showed.
    ReadsGoBack,
    /// An agent whose start is refused takes that for its own start, recorded before.
    ConflictIsMine,
    /// An agent that is offered something again does not see that it was answered.
    FinishedNotSeen,
    /// An agent does not confirm an offer of what was answered.
    FinishedNotConfirmed,
    /// Work goes on although it was told to end.
    CancelUnheard,
    /// What was ended because somebody wanted it is said to have failed.
    CancelToldAsFailure,
    /// A cancel names a place in the ledger that is not its own.
    CancelMisnamed,
    /// Controllers record neither losses nor expiries.
    LossUnrecorded,
    /// A process does not look whether another has its identity.
    BindingForced,
    /// That an identity was refused is not in the audit trail.
    RefusalUnaudited,
    /// A dead letter does not say who had the work.
    LetterWithoutAgent,
    /// A duration is the difference of two clocks' stamps.
    DurationByWallClock,
    /// An agent does not take what was submitted in its future.
    ClocksCompared,
}

impl Bug {
    /// Every bug.
    pub const ALL: [Self; 44] = [
        Self::StartUnguarded,
        Self::LedgerNotFolded,
        Self::StartUnrecorded,
        Self::AnswersOverwrite,
        Self::ExpiryIgnored,
        Self::NotBeforeIgnored,
        Self::CancelIgnored,
        Self::NeverExtended,
        Self::DeliveryIsPermission,
        Self::LostTooEarly,
        Self::PolicyIgnored,
        Self::BackoffIgnored,
        Self::NeverAnnouncedAgain,
        Self::NotedAnswerLost,
        Self::DrainIgnored,
        Self::DeadLetterDropped,
        Self::KeyNotReserved,
        Self::FailureIsSuccess,
        Self::IndexMissesAnswers,
        Self::DeleteForgotten,
        Self::CancelUnrecorded,
        Self::GroupIgnored,
        Self::LapseProvesAll,
        Self::TurnIgnored,
        Self::FenceStandsStill,
        Self::OrderIgnored,
        Self::SharesForgotten,
        Self::CursorForgotten,
        Self::CursorRunsAhead,
        Self::FutureNotBelieved,
        Self::StampsMixed,
        Self::ReadsGoBack,
        Self::ConflictIsMine,
        Self::FinishedNotSeen,
        Self::FinishedNotConfirmed,
        Self::CancelUnheard,
        Self::CancelToldAsFailure,
        Self::CancelMisnamed,
        Self::LossUnrecorded,
        Self::BindingForced,
        Self::RefusalUnaudited,
        Self::LetterWithoutAgent,
        Self::DurationByWallClock,
        Self::ClocksCompared,
    ];

    /// The promises, one of which it must be seen to break: numbers of invariants, or words.
    #[must_use]
    pub fn breaks(self) -> &'static [&'static str] {
        match self {
            Self::StartUnguarded | Self::LedgerNotFolded => &["INV-08", "INV-15"],
            Self::StartUnrecorded => &["INV-15"],
            Self::AnswersOverwrite => &["INV-09"],
            Self::ExpiryIgnored | Self::NotBeforeIgnored => &["INV-19"],
            Self::CancelIgnored => &["INV-25"],
            Self::NeverExtended | Self::DeliveryIsPermission | Self::LostTooEarly | Self::LapseProvesAll | Self::StampsMixed => &["INV-17"],
            Self::PolicyIgnored | Self::BackoffIgnored => &["INV-49"],
            Self::NeverAnnouncedAgain => &["INV-58", "INV-01"],
            Self::NotedAnswerLost => &["the notes"],
            Self::DrainIgnored => &["INV-34"],
            Self::DeadLetterDropped => &["INV-36"],
            Self::KeyNotReserved => &["INV-03"],
            Self::FailureIsSuccess => &["INV-01"],
            Self::IndexMissesAnswers => &["INV-13"],
            Self::DeleteForgotten => &["a deleted job"],
            Self::CancelUnrecorded => &["INV-25", "INV-27"],
            Self::GroupIgnored => &["INV-21"],
            Self::TurnIgnored => &["INV-46 attempts"],
            Self::FenceStandsStill => &["INV-46 a fence"],
            Self::OrderIgnored => &["INV-50"],
            Self::SharesForgotten => &["INV-31"],
            Self::CursorForgotten => &["INV-14 nothing"],
            Self::CursorRunsAhead => &["INV-14 everything"],
            Self::FutureNotBelieved => &["INV-33"],
            Self::ReadsGoBack => &["INV-11"],
            Self::ConflictIsMine => &["INV-18"],
            Self::FinishedNotSeen => &["INV-24 no"],
            Self::FinishedNotConfirmed => &["INV-24 a"],
            Self::CancelUnheard => &["INV-26 work"],
            Self::CancelToldAsFailure => &["INV-26 what"],
            Self::CancelMisnamed => &["INV-28"],
            Self::LossUnrecorded => &["INV-30"],
            Self::BindingForced => &["INV-35 at"],
            Self::RefusalUnaudited => &["INV-35 a refusal"],
            Self::LetterWithoutAgent => &["INV-37 a letter says"],
            Self::DurationByWallClock => &["INV-57 a duration"],
            Self::ClocksCompared => &["INV-57 wrong"],
        }
    }
}
