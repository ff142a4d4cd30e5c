//! The supervisor as a program of its own, for this crate's tests; and the host of WebAssembly modules.

fn main() -> std::process::ExitCode {
    #[cfg(feature = "wasm")]
    if std::env::args().nth(1).as_deref() == Some(longshore_exec::package::host::WASM_HOST) {
        return longshore_exec::package::host::wasm_host_main();
    }
    longshore_exec::process::supervisor::supervise_main()
}
