//! The in-memory twin: the same promises without a broker, for tests and simulation. Kept honest by the conformance suite.
