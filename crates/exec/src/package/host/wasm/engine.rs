//! The engine: an interpreter that burns fuel, so that a module can be stopped wherever it is.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use wasmi::{Config, Engine, Error, ExternType, Linker, Module, Store, TypedResumableCall};

use super::task::Task;
use super::wasi;

/// Bytes of a module, as text or not.
const MODULE_BYTES_MAX: u64 = 32 << 20;
/// Fuel between two looks at whether to go on: some milliseconds of work.
const SLICE: u64 = 1_000_000;
/// Slices that a module may take before it is at its entry: its `start` function cannot be stopped in between.
const START_SLICES: u64 = 20;

/// A module that can be run.
pub(super) struct Guest {
    engine: Engine,
    module: Module,
    linker: Linker<Task>,
}

/// How a call ended.
pub(super) enum End {
    /// What it wrote to stdout, which is JSON.
    Returned(Vec<u8>),
    Failed {
        kind: &'static str,
        type_name: &'static str,
        message: String,
    },
}

impl End {
    fn raised(type_name: &'static str, message: String) -> Self {
        Self::Failed { kind: "raised", type_name, message }
    }
}

impl Guest {
    /// Reads a module, binary or text.
    ///
    /// # Errors
    /// It is none, or not one that could be run here; the message says why.
    pub(super) fn load(path: &Path) -> Result<Self, String> {
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
        file.take(MODULE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
        if bytes.len() as u64 > MODULE_BYTES_MAX {
            return Err(format!("has more than {MODULE_BYTES_MAX} bytes"));
        }
        Self::of(&bytes)
    }

    /// The same for its bytes.
    fn of(bytes: &[u8]) -> Result<Self, String> {
        let mut config = Config::default();
        config.consume_fuel(true);
        let engine = Engine::new(&config);
        let module = Module::new(&engine, bytes).map_err(|error| format!("is none: {error}"))?;
        let mut linker = Linker::new(&engine);
        wasi::define(&mut linker).map_err(|error| format!("cannot be linked: {error}"))?;
        let is_entry = |ty: &ExternType| ty.func().is_some_and(|ty| ty.params().is_empty() && ty.results().is_empty());
        match module.get_export("_start") {
            Some(ty) if is_entry(&ty) => {}
            Some(_) | None => return Err("has no entry: it has to export a function `_start` that takes and gives nothing".to_owned()),
        }
        if !matches!(module.get_export("memory"), Some(ExternType::Memory(_))) {
            return Err("has no memory: it has to export one under the name `memory`".to_owned());
        }
        for import in module.imports() {
            if !wasi::has(import.module(), import.name()) {
                return Err(format!(
                    "wants {}.{}, which is not here: see \"WebAssembly\" in docs/handlers.md",
                    import.module(),
                    import.name()
                ));
            }
        }
        Ok(Self { engine, module, linker })
    }

    /// Runs the module's entry for one call.
    pub(super) fn run(&self, task: Task) -> End {
        let mut store = Store::new(&self.engine, task);
        store.limiter(|task| &mut task.share);
        let ended = self.enter(&mut store);
        let task = store.data_mut();
        task.pass_line_on();
        let code = match ended {
            Ok(()) => 0,
            Err(error) => match error.i32_exit_status() {
                Some(code) => code,
                None if task.running.is_stopped() => {
                    return End::Failed { kind: "cancelled", type_name: "", message: String::new() };
                }
                None if task.overflown => {
                    return End::raised(
                        "TooLarge",
                        format!("the module wrote more than {} bytes, or more than there is memory for", task.output_bytes_max),
                    );
                }
                None => return End::raised("Trap", with_last_words(format!("the module trapped: {error}"), task)),
            },
        };
        if code != 0 {
            return End::raised("ExitStatus", with_last_words(format!("the module exited with status {code}"), task));
        }
        let output = std::mem::take(&mut task.output);
        let bad = |why: String| End::raised("BadOutput", format!("the module has to write one JSON object to stdout: {why}"));
        if output.trim_ascii().is_empty() {
            return bad("it wrote nothing".to_owned());
        }
        match serde_json::from_slice::<serde::de::IgnoredAny>(&output) {
            Ok(_) => End::Returned(output),
            Err(error) => bad(error.to_string()),
        }
    }

    fn enter(&self, store: &mut Store<Task>) -> Result<(), Error> {
        store.set_fuel(START_SLICES * SLICE)?;
        let instance = self.linker.instantiate_and_start(&mut *store, &self.module)?;
        let entry = instance.get_typed_func::<(), ()>(&*store, "_start")?;
        store.set_fuel(SLICE)?;
        let mut call = entry.call_resumable(&mut *store, ())?;
        loop {
            match call {
                TypedResumableCall::Finished(()) => return Ok(()),
                TypedResumableCall::HostTrap(trap) => {
                    let error = trap.host_error();
                    return Err(error.i32_exit_status().map_or_else(|| Error::new(error.to_string()), Error::i32_exit));
                }
                TypedResumableCall::OutOfFuel(paused) => {
                    if store.data().running.is_stopped() {
                        return Err(Error::new("it was stopped"));
                    }
                    store.set_fuel(SLICE.max(paused.required_fuel()))?;
                    call = paused.resume(&mut *store)?;
                }
            }
        }
    }
}

fn with_last_words(mut message: String, task: &mut Task) -> String {
    let last_words = task.last_words();
    if !last_words.is_empty() {
        message += &format!("; its last words: {last_words}");
    }
    message
}
