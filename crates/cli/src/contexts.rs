//! Contexts: named controllers and where their tokens are, in the user's own file (0600).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::private;
use crate::settings::user_dir;

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one that commands use.
    #[serde(default)]
    pub(crate) current: Option<String>,
    /// All of them.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// One controller and who we are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// Its address.
    pub(crate) url: String,
    /// Where our token is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
}

impl Contexts {
    /// Where the file is.
    pub(crate) fn path() -> Result<PathBuf, Failure> {
        let dir = user_dir().ok_or_else(|| Failure::new(Exit::Usage, "there is no home directory: set HOME or XDG_CONFIG_HOME"))?;
        Ok(dir.join("contexts.yaml"))
    }

    /// Reads the file; none is an empty one.
    pub(crate) fn load(path: &Path) -> Result<Self, Failure> {
        let refused =
            |cause: String| Failure::new(Exit::Invalid, format!("{} cannot be used", path.display())).because(cause).code("configuration");
        match std::fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() => Ok(Self::default()),
            Ok(text) => serde_saphyr::from_str(&text).map_err(|error| refused(error.to_string())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(refused(error.to_string())),
        }
    }

    /// Replaces the file.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_saphyr::to_string(self).expect("contexts are maps of text");
        private::replace_file(path, text.as_bytes())
            .map_err(|error| Failure::new(Exit::Failed, format!("{} cannot be written", path.display())).caused_by(&error))
    }

    /// The context of this name, or the current one.
    pub(crate) fn get(&self, name: Option<&str>) -> Result<Option<&Context>, Failure> {
        let Some(name) = name.or(self.current.as_deref()) else { return Ok(None) };
        match self.contexts.get(name) {
            Some(context) => Ok(Some(context)),
            None => Err(self.unknown(name)),
        }
    }

    /// Says that there is no such context.
    pub(crate) fn unknown(&self, name: &str) -> Failure {
        let names = self.contexts.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let failure = Failure::new(Exit::NotFound, format!("there is no context `{name}`"));
        if names.is_empty() {
            failure.hint("longshore start makes the context `local`")
        } else {
            failure.hint(format!("there is: {names}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn contexts_are_kept_privately_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new").join("contexts.yaml");
        assert_eq!(Contexts::load(&path).unwrap(), Contexts::default());
        let context = Context { url: "http://127.0.0.1:8080".to_owned(), token_file: Some("/x/token".into()) };
        let contexts = Contexts { current: Some("local".to_owned()), contexts: [("local".to_owned(), context.clone())].into() };
        contexts.save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let loaded = Contexts::load(&path).unwrap();
        assert_eq!(loaded, contexts);
        assert_eq!(loaded.get(None).unwrap(), Some(&context));
        assert_eq!(loaded.get(Some("prod")).unwrap_err().exit, Exit::NotFound);
    }
}
