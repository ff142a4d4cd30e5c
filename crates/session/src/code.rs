//! Words that ends refuse each other with, and what a failed dial means.

/// No token came.
pub const MISSING_TOKEN: &str = "E.AUTH.MISSING_TOKEN";
/// The token is not one of ours.
pub const INVALID_TOKEN: &str = "E.AUTH.INVALID_TOKEN";
/// A certificate is asked for.
pub const MTLS_REQUIRED: &str = "E.AUTH.MTLS_REQUIRED";
/// That way of proof is not known.
pub const MODE_UNSUPPORTED: &str = "E.AUTH.MODE_UNSUPPORTED";
/// The first frame is neither a handshake nor a resume.
pub const HANDSHAKE_REQUIRED: &str = "E.AUTH.HANDSHAKE_REQUIRED";
/// The frame came before the proof.
pub const UNAUTHENTICATED: &str = "E.AUTH.UNAUTHENTICATED";
/// There is no session of that instance.
pub const SESSION_UNKNOWN: &str = "E.SESSION.UNKNOWN";
/// The session is another tenant's.
pub const TENANT_MISMATCH: &str = "E.SESSION.TENANT_MISMATCH";
/// The session was never opened.
pub const NOT_REGISTERED: &str = "E.SESSION.NOT_REGISTERED";
/// The instance has another session.
pub const SESSION_MISMATCH: &str = "E.SESSION.MISMATCH";
/// The session's token is wrong or too old.
pub const SESSION_TOKEN: &str = "E.SESSION.INVALID_TOKEN";
/// Numbers are missing for good: begin anew.
pub const STALE_BINDING: &str = "E.SESSION.STALE_BINDING";
/// A frame was not as it must be.
pub const PROTOCOL: &str = "E.SESSION.PROTOCOL";

/// What a failure to connect is about; it decides whether the settings say to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The credentials.
    Auth,
    /// The other end does not speak this.
    Protocol,
    /// The way there.
    Network,
    /// Something else.
    Unknown,
}

impl Failure {
    /// From an HTTP status or WebSocket close code, and else from the words of the error.
    #[must_use]
    pub fn of(status: Option<u16>, words: &str) -> Self {
        match status {
            Some(401 | 403) => return Self::Auth,
            Some(400 | 404 | 426) => return Self::Protocol,
            Some(_) | None => {}
        }
        let words = words.to_lowercase();
        let says = |any: &[&str]| any.iter().any(|word| words.contains(word));
        if says(&["unauthorized", "forbidden", "invalid token", "auth"]) {
            Self::Auth
        } else if says(&["protocol", "handshake", "invalid status", "unsupported"]) {
            Self::Protocol
        } else if says(&["timeout", "timed out", "refused", "unreachable", "reset"]) {
            Self::Network
        } else {
            Self::Unknown
        }
    }

    /// From the code of a `control.reset`. A lost session is no refusal: the next handshake makes another.
    #[must_use]
    pub fn of_reset(code: &str) -> Self {
        match code {
            HANDSHAKE_REQUIRED | UNAUTHENTICATED => Self::Unknown,
            PROTOCOL => Self::Protocol,
            other if other.starts_with("E.AUTH.") => Self::Auth,
            _ => Self::Unknown,
        }
    }
}

/// Whether a close says that the other end does not know the session any more.
pub(crate) fn is_session_lost(code: Option<u16>, reason: &str) -> bool {
    let words = ["service restart", "Unknown session", "1012"];
    code == Some(1012) || words.iter().any(|word| reason.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart_by_status_first_and_words_then() {
        let rows = [
            (Some(403), "timeout", Failure::Auth),
            (Some(401), "", Failure::Auth),
            (Some(404), "unauthorized", Failure::Protocol),
            (Some(426), "", Failure::Protocol),
            (Some(500), "Forbidden", Failure::Auth),
            (None, "invalid token", Failure::Auth),
            (None, "unsupported version", Failure::Protocol),
            (None, "Connection Refused", Failure::Network),
            (None, "network is unreachable", Failure::Network),
            (None, "what", Failure::Unknown),
        ];
        for (status, words, expected) in rows {
            assert_eq!(Failure::of(status, words), expected, "{status:?} {words}");
        }
    }

    #[test]
    fn a_lost_session_is_no_refusal() {
        let rows = [
            (INVALID_TOKEN, Failure::Auth),
            (MISSING_TOKEN, Failure::Auth),
            (HANDSHAKE_REQUIRED, Failure::Unknown),
            (SESSION_UNKNOWN, Failure::Unknown),
            (PROTOCOL, Failure::Protocol),
        ];
        for (code, expected) in rows {
            assert_eq!(Failure::of_reset(code), expected, "{code}");
        }
        assert!(is_session_lost(Some(1012), ""));
        assert!(is_session_lost(None, "Unknown session x"));
        assert!(!is_session_lost(Some(1006), "gone"));
    }
}
