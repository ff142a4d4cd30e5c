//! Directories named after hosts. What an agent calls its host is any text: only what is harmless as a name of a file becomes one.

use std::collections::BTreeMap;

use longshore_client::ArtifactArchive;
use longshore_model::AgentId;
use longshore_model::limits::HOST_NAME_BYTES_MAX;

/// A name for each, no two alike: the host's name, or the execution's id where that cannot be a directory or is another's too.
pub(super) fn places(archives: &[ArtifactArchive]) -> Vec<String> {
    let named = |archive: &ArtifactArchive| archive.hostname.clone().filter(|name| is_harmless(name));
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for name in archives.iter().filter_map(named) {
        // Some file systems do not tell capitals from others.
        *times.entry(name.to_lowercase()).or_default() += 1;
    }
    let place = |archive: &ArtifactArchive| {
        let name = named(archive).filter(|name| times[&name.to_lowercase()] == 1);
        name.unwrap_or_else(|| archive.execution.to_string())
    };
    archives.iter().map(place).collect()
}

/// Whether it is one component of a path and nothing else, and could not be taken for an execution.
fn is_harmless(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let looks_like_an_id = name.eq_ignore_ascii_case("any") || name.to_lowercase().parse::<AgentId>().is_ok();
    name.len() <= HOST_NAME_BYTES_MAX
        && name.bytes().all(is_plain)
        && !name.is_empty()
        && !name.starts_with(['.', '-'])
        && !looks_like_an_id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(agent: u128, hostname: Option<&str>) -> ArtifactArchive {
        let agent = AgentId::from_bits(agent);
        ArtifactArchive { execution: agent.into(), agent: Some(agent), hostname: hostname.map(str::to_owned), bytes: 1, files: 1 }
    }

    #[test]
    fn only_harmless_names_that_one_host_alone_has_become_directories() {
        let another = AgentId::from_bits(1).to_string();
        let long = "x".repeat(HOST_NAME_BYTES_MAX + 1);
        let hostile =
            ["", ".", "..", "../x", "/etc", "a/b", "a\0b", "-rf", ".ssh", "a b", "a\u{1b}[2J", "gr\u{f6}\u{df}e", "any", &another, &long];
        for name in hostile {
            let archives = [archive(1, Some("web-01")), archive(2, Some(name))];
            assert_eq!(places(&archives), ["web-01".to_owned(), AgentId::from_bits(2).to_string()], "{name:?}");
        }
        let twins = [archive(1, Some("web.example")), archive(2, Some("Web.example")), archive(3, None), archive(4, Some("db_1"))];
        let id = |n| AgentId::from_bits(n).to_string();
        assert_eq!(places(&twins), [id(1), id(2), id(3), "db_1".to_owned()]);
    }
}
