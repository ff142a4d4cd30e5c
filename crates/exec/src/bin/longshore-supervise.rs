//! The supervisor as a program of its own, for this crate's tests.

fn main() -> std::process::ExitCode {
    longshore_exec::process::supervisor::supervise_main()
}
