//! `--limit NAME=VALUE` of `run DIR`: what the steps may use.

use longshore_model::wire::args::LimitArgs;

/// One limit, as it was typed; the values are checked where all arguments of the operation are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Limit {
    Memory(String),
    Cpu(String),
    Processes(u32),
    FileSize(String),
    Output(String),
}

impl std::str::FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE, such as memory=512MiB")?;
        let value = value.to_owned();
        match name {
            "memory" => Ok(Self::Memory(value)),
            "cpu" => Ok(Self::Cpu(value)),
            "processes" => value.parse().map(Self::Processes).map_err(|_| format!("{value:?} is not a number of processes")),
            "file_size" | "file-size" => Ok(Self::FileSize(value)),
            "output" => Ok(Self::Output(value)),
            _ => Err(format!("there is no limit {name:?}; there are memory, cpu, processes, file_size and output")),
        }
    }
}

/// The limits together; of two of one name the later counts.
pub(crate) fn together(limits: &[Limit]) -> Option<LimitArgs> {
    let mut args = LimitArgs::default();
    for limit in limits.iter().cloned() {
        match limit {
            Limit::Memory(size) => args.memory = Some(size),
            Limit::Cpu(processors) => args.cpu = Some(processors),
            Limit::Processes(n) => args.processes = Some(n),
            Limit::FileSize(size) => args.file_size = Some(size),
            Limit::Output(size) => args.output = Some(size),
        }
    }
    (!limits.is_empty()).then_some(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_unknown_ones_are_named() {
        let limits: Vec<Limit> = ["memory=1GiB", "cpu=1.5", "processes=9", "file_size=2MiB", "output=1KiB", "memory=2GiB"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let args = together(&limits).unwrap();
        assert_eq!((args.memory.as_deref(), args.cpu.as_deref(), args.processes), (Some("2GiB"), Some("1.5"), Some(9)));
        assert_eq!((args.file_size.as_deref(), args.output.as_deref()), (Some("2MiB"), Some("1KiB")));
        assert_eq!(together(&[]), None);
        for (text, part) in [("memory", "NAME=VALUE"), ("disk=1", "no limit \"disk\""), ("processes=many", "\"many\" is not")] {
            assert!(text.parse::<Limit>().unwrap_err().contains(part), "{text}");
        }
    }
}
