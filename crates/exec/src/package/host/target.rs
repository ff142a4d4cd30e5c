//! From a package's manifest to what is run for a node type, and how.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use super::call::{ErrorKind, ExecMode, HandlerError};
use crate::package::{Adapter, Free, Installed, Manifest};

/// What is run for a node type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) runtime: Runtime,
    /// Of the adapter.
    pub(crate) entrypoint: String,
    /// Of the node.
    pub(crate) handler: String,
    /// What node or adapter say.
    pub(crate) exec_mode: Option<ExecMode>,
}

/// What runs it. An adapter says so in its free `metadata`: `runtime`, which is `python` unless it does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Runtime {
    Python,
    /// `command`: the program, below the package's directory or on the `PATH`, and its arguments.
    Process {
        command: Vec<String>,
        protocol: Protocol,
    },
    /// `module`: a file below the package's directory.
    Wasm {
        module: String,
    },
}

/// How a program is talked to: `protocol` in the adapter's `metadata`, `once` unless said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    /// A process for each call: one object on stdin, one on stdout.
    Once,
    /// One process for all calls: a line for each frame.
    Lines,
}

/// What is run for `node_type`.
///
/// # Errors
/// The package has no such node, its adapter is missing, or the adapter's metadata say nothing that can be run.
pub(crate) fn of(installed: &Installed, node_type: &str) -> Result<Target, HandlerError> {
    let package = format!("{}@{}", installed.name, installed.version);
    let refused = |why: String| HandlerError::new(ErrorKind::NotLoaded, why);
    let Some(node) = installed.manifest.nodes.iter().find(|node| node.node_type.as_str() == node_type) else {
        let shown = &node_type[..node_type.floor_char_boundary(128)];
        return Err(refused(format!("Handler not registered: the package {package} has no node type {shown:?}")));
    };
    let Some(adapter) = installed.manifest.adapter(&node.adapter) else {
        return Err(refused(format!("Handler not registered: the package {package} has no adapter {:?}", node.adapter)));
    };
    let runtime = runtime(adapter).map_err(|why| refused(format!("the adapter {:?} of {package} cannot be run: {why}", adapter.name)))?;
    let exec_mode = said(&node.config).or_else(|| said(&adapter.metadata));
    Ok(Target { runtime, entrypoint: adapter.entrypoint.to_string(), handler: node.handler.to_string(), exec_mode })
}

fn said(free: &Free) -> Option<ExecMode> {
    free.get("exec_mode").and_then(Value::as_str).and_then(ExecMode::of_word)
}

fn runtime(adapter: &Adapter) -> Result<Runtime, String> {
    let text =
        |key: &str| adapter.metadata.get(key).map(|value| value.as_str().ok_or(format!("its metadata.{key} is no text"))).transpose();
    match text("runtime")?.unwrap_or("python") {
        "python" => Ok(Runtime::Python),
        "process" => {
            let words = adapter.metadata.get("command").and_then(Value::as_array);
            let command = words.and_then(|words| words.iter().map(|word| word.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>());
            let command = command.filter(|command| command.first().is_some_and(|program| !program.is_empty()));
            let command = command.ok_or("its metadata.command has to be a list: the program, then its arguments")?;
            if command.iter().any(|word| word.contains('\0')) {
                return Err("its metadata.command has a word with a NUL".to_owned());
            }
            if !command[0].starts_with('/') && command[0].contains('/') {
                is_below(&command[0])?;
            }
            let protocol = match text("protocol")?.unwrap_or("once") {
                "once" => Protocol::Once,
                "lines" => Protocol::Lines,
                other => return Err(format!("its metadata.protocol is {other:?} and neither `once` nor `lines`")),
            };
            Ok(Runtime::Process { command, protocol })
        }
        "wasm" => {
            let module = text("module")?.ok_or("its metadata.module has to name a file of the package")?;
            is_below(module)?;
            Ok(Runtime::Wasm { module: module.to_owned() })
        }
        other => Err(format!("its metadata.runtime is {other:?}, and there are `python`, `process` and `wasm`")),
    }
}

/// What of a package's adapters would not run, with its place: said when it is built, verified or installed. Looks at what it names and
/// translates nothing, as this is a worker's own process.
pub(crate) fn remarks(manifest: &Manifest, directory: &Path) -> Vec<String> {
    about_each(manifest, |runtime| match runtime {
        Err(why) => Some(why),
        Ok(Runtime::Python) => None,
        Ok(Runtime::Process { command, .. }) => missing_program(&command[0], directory),
        Ok(Runtime::Wasm { module }) => no_module(&directory.join(&module)).map(|why| format!("its module {module:?} {why}")),
    })
}

/// The same of its modules, translated by the engine: for an author at the command line.
#[cfg(feature = "wasm")]
pub(crate) fn engine_remarks(manifest: &Manifest, directory: &Path) -> Vec<String> {
    about_each(manifest, |runtime| match runtime {
        Ok(Runtime::Wasm { module }) => {
            let path = directory.join(&module);
            let why = no_module(&path).is_none().then(|| super::wasm::unusable(&path)).flatten()?;
            Some(format!("its module {module:?} {why}"))
        }
        Ok(Runtime::Python | Runtime::Process { .. }) | Err(_) => None,
    })
}

#[cfg(not(feature = "wasm"))]
pub(crate) fn engine_remarks(_manifest: &Manifest, _directory: &Path) -> Vec<String> {
    Vec::new()
}

fn about_each(manifest: &Manifest, why: impl Fn(Result<Runtime, String>) -> Option<String>) -> Vec<String> {
    let remark = |adapter: &Adapter| Some(format!("adapters: {:?} cannot be run: {}", adapter.name, why(runtime(adapter))?));
    manifest.adapters.iter().filter_map(remark).collect()
}

fn missing_program(program: &str, directory: &Path) -> Option<String> {
    // What lies elsewhere is the business of the host it will run on.
    if program.starts_with('/') || !program.contains('/') {
        return None;
    }
    let found = std::fs::metadata(directory.join(program)).ok().filter(std::fs::Metadata::is_file);
    match found {
        None => Some(format!("its program {program:?} is not in the package")),
        Some(found) if PermissionsExt::mode(&found.permissions()) & 0o100 == 0 => {
            Some(format!("its program {program:?} is not executable"))
        }
        Some(_) => None,
    }
}

fn no_module(path: &Path) -> Option<String> {
    let mut beginning = Vec::new();
    let read = File::open(path).and_then(|file| file.take(4096).read_to_end(&mut beginning));
    match read {
        Err(error) => Some(format!("cannot be read: {error}")),
        Ok(_) if beginning.starts_with(b"\0asm") || beginning.contains(&b'(') => None,
        Ok(_) => Some("is neither a binary module nor one written as text".to_owned()),
    }
}

fn is_below(path: &str) -> Result<(), String> {
    let harmless = !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "..")) && !path.contains('\0');
    harmless.then_some(()).ok_or_else(|| format!("{path:?} does not lie below the package's directory"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;

    fn installed(config: Value, metadata: Value) -> Installed {
        let manifest = json!({
            "schemaVersion": "1.0.0", "name": "p", "version": "1.0.0", "description": "", "python": { "requires": ">=3.9" },
            "adapters": [{ "name": "a", "entrypoint": "adapters.echo:Echo", "capabilities": ["x"], "metadata": metadata }],
            "nodes": [{ "type": "n", "status": "published", "category": "c", "label": "l", "adapter": "a", "handler": "run", "schema": {}, "config": config }],
        });
        let (manifest, raw) = Manifest::parse(manifest.to_string().as_bytes()).unwrap();
        Installed {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            directory: PathBuf::from("/p"),
            manifest,
            raw,
            python: None,
        }
    }

    #[test]
    fn the_node_says_how_it_runs_then_its_adapter_then_the_worker() {
        use ExecMode::{Auto, Inline, Thread};
        let rows = [
            (json!({ "exec_mode": "inline" }), json!({ "exec_mode": "thread" }), Some(Inline)),
            (json!({ "exec_mode": " THREAD " }), json!({}), Some(Thread)),
            (json!({ "exec_mode": "async" }), json!({}), Some(Inline)),
            (json!({ "exec_mode": "event_loop" }), json!({}), Some(Inline)),
            (json!({ "exec_mode": "Loop" }), json!({}), Some(Inline)),
            (json!({ "exec_mode": "auto" }), json!({ "exec_mode": "thread" }), Some(Auto)),
            (json!({ "exec_mode": "nonsense" }), json!({ "exec_mode": "thread" }), Some(Thread)),
            (json!({ "exec_mode": 7 }), json!({ "exec_mode": "inline" }), Some(Inline)),
            (json!({}), json!({ "exec_mode": "threads" }), None),
            (json!({}), json!({}), None),
        ];
        for (config, metadata, expected) in rows {
            assert_eq!(of(&installed(config.clone(), metadata.clone()), "n").unwrap().exec_mode, expected, "{config} {metadata}");
        }
    }

    #[test]
    fn runtimes_are_read_from_the_adapters_metadata_or_refused_with_the_reason() {
        let process =
            |command: &[&str], protocol| Runtime::Process { command: command.iter().map(ToString::to_string).collect(), protocol };
        let rows = [
            (json!({}), Ok(Runtime::Python)),
            (json!({ "runtime": "process", "command": ["bin/x", "-v"] }), Ok(process(&["bin/x", "-v"], Protocol::Once))),
            (json!({ "runtime": "process", "command": ["sh"], "protocol": "lines" }), Ok(process(&["sh"], Protocol::Lines))),
            (json!({ "runtime": "wasm", "module": "a/b.wasm" }), Ok(Runtime::Wasm { module: "a/b.wasm".to_owned() })),
            (json!({ "runtime": "process" }), Err("metadata.command")),
            (json!({ "runtime": "process", "command": [] }), Err("metadata.command")),
            (json!({ "runtime": "process", "command": ["sh", 1] }), Err("metadata.command")),
            (json!({ "runtime": "process", "command": ["a\u{0}"] }), Err("NUL")),
            (json!({ "runtime": "process", "command": ["../x"] }), Err("does not lie below")),
            (json!({ "runtime": "process", "command": ["sh"], "protocol": "odd" }), Err("metadata.protocol")),
            (json!({ "runtime": "wasm", "module": "/etc/x" }), Err("does not lie below")),
            (json!({ "runtime": "wasm" }), Err("metadata.module")),
            (json!({ "runtime": "ruby" }), Err("\"ruby\"")),
            (json!({ "runtime": 1 }), Err("no text")),
        ];
        for (metadata, expected) in rows {
            match (of(&installed(json!({}), metadata.clone()), "n"), expected) {
                (Ok(target), Ok(runtime)) => assert_eq!(target.runtime, runtime, "{metadata}"),
                (Err(error), Err(words)) => assert!(error.message.contains(words), "{metadata}: {error}"),
                (read, expected) => panic!("{metadata}: {read:?} instead of {expected:?}"),
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let seen = |metadata: Value| remarks(&installed(json!({}), metadata).manifest, dir.path()).join("; ");
        let (module, program) = (json!({ "runtime": "wasm", "module": "m.wasm" }), json!({ "runtime": "process", "command": ["bin/x"] }));
        assert!(seen(module.clone()).contains("\"a\" cannot be run: its module \"m.wasm\" cannot be read"), "{}", seen(module.clone()));
        assert!(seen(program.clone()).contains("is not in the package"));
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        std::fs::write(dir.path().join("bin/x"), "").unwrap();
        std::fs::write(dir.path().join("m.wasm"), "none").unwrap();
        assert!(seen(program.clone()).contains("is not executable"));
        assert!(seen(module.clone()).contains("neither a binary module"));
        std::fs::set_permissions(dir.path().join("bin/x"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(dir.path().join("m.wasm"), b"\0asm").unwrap();
        assert_eq!((seen(module), seen(program), seen(json!({}))), Default::default());
        assert!(seen(json!({ "runtime": "ruby" })).contains("ruby"));
        assert!(of(&installed(json!({}), json!({})), "other").unwrap_err().message.starts_with("Handler not registered: "));
    }
}
