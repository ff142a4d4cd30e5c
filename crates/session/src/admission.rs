//! Who is let into a session at the gateway, and what a resume has to fit.

use crate::code;
use crate::control::Token;
use crate::greeting::{Hail, Refusal};
use crate::output::Binding;

/// A session that somebody was let into.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) admission: Admission,
    /// The id of the greeting that this connection began with.
    pub(crate) greeting: String,
    /// The id of the register that opened it; a session without one cannot be resumed.
    pub(crate) register: Option<String>,
    pub(crate) resumed: bool,
}

/// What somebody who is let in gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The session's name; for a resume, the one that it asked for.
    pub session_id: String,
    /// What the next resume has to show.
    pub session_token: Token,
    /// When that ends, as the worker is told.
    pub expires_at: Option<String>,
}

/// Which connection a greeting came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// One that the session does not know yet.
    New,
    /// The session's own: it came with [`crate::Output::Authenticate`].
    Same(Binding),
}

/// Whether an earlier session can go on. A handshake always begins another.
pub(crate) fn check_resume(hail: &Hail, session: Option<&Session>, admission: &Admission) -> Result<(), Refusal> {
    match (hail, session) {
        (Hail::Handshake(_), _) => Ok(()),
        (Hail::Resume(_), None) => Err(Refusal::new(code::SESSION_UNKNOWN, "there is no session of that instance")),
        (Hail::Resume(_), Some(session)) if session.register.is_none() => {
            Err(Refusal::new(code::NOT_REGISTERED, "the session was never opened, or was reset"))
        }
        (Hail::Resume(resume), Some(session)) => {
            let fits = session.admission.session_id == resume.session_id && admission.session_id == resume.session_id;
            if fits { Ok(()) } else { Err(Refusal::new(code::SESSION_MISMATCH, "the instance has another session")) }
        }
    }
}
