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

/// Where a controller was noted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Noted {
    /// Its context.
    pub(crate) name: String,
    /// The current context, if that is another.
    pub(crate) current: Option<String>,
    /// What had the name before.
    pub(crate) replaced: Option<Context>,
}

/// Whether its data directory has been removed, so that nobody can use it.
fn is_gone(context: &Context) -> bool {
    context.token_file.as_ref().is_some_and(|path| !path.exists())
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

    /// Notes the controller of this host under `local`, or under the next such name while another data directory has that one. It becomes the
    /// current one only if none is.
    pub(crate) fn note_local(&mut self, context: Context) -> Noted {
        let own = self.contexts.iter().find(|(_, found)| found.token_file.is_some() && found.token_file == context.token_file);
        let own = own.map(|(name, _)| name.clone());
        let names = (1..).map(|n| if n == 1 { "local".to_owned() } else { format!("local-{n}") });
        let name = own.or_else(|| names.into_iter().find(|name| self.contexts.get(name).is_none_or(is_gone))).expect("names do not end");
        let before = self.contexts.insert(name.clone(), context.clone());
        let replaced = before.filter(|before| before.token_file != context.token_file);
        if self.current.as_ref().is_none_or(|current| !self.contexts.contains_key(current)) {
            self.current = Some(name.clone());
        }
        let current = self.current.clone().filter(|current| *current != name);
        Noted { name, current, replaced }
    }

    /// Says that there is no such context.
    pub(crate) fn unknown(&self, name: &str) -> Failure {
        let names = self.contexts.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let failure = Failure::new(Exit::NotFound, format!("there is no context `{name}`"));
        if names.is_empty() {
            failure.hint("longshore start makes the context `local`, and `longshore context add` others")
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
    fn each_data_directory_has_a_context_of_its_own_and_none_is_taken_away() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let context = |n: usize, url: &str| Context { url: url.to_owned(), token_file: Some(dirs[n].path().join("token")) };
        dirs.iter().for_each(|dir| std::fs::write(dir.path().join("token"), "x").unwrap());
        let mut contexts = Contexts::default();
        let noted =
            |name: &str, current: Option<&str>| Noted { name: name.to_owned(), current: current.map(str::to_owned), replaced: None };
        assert_eq!(contexts.note_local(context(0, "http://a")), noted("local", None));
        assert_eq!(contexts.note_local(context(1, "http://b")), noted("local-2", Some("local")));
        assert_eq!(contexts.note_local(context(1, "http://c")), noted("local-2", Some("local")), "its own, at another address");
        assert_eq!(contexts.note_local(context(0, "http://d")), noted("local", None));
        assert_eq!(contexts.contexts["local"].url, "http://d");
        contexts.current = Some("local-2".to_owned());
        std::fs::remove_file(dirs[0].path().join("token")).unwrap();
        let elsewhere = Context { url: "http://e".to_owned(), token_file: Some("/elsewhere/token".into()) };
        let replaced = contexts.note_local(elsewhere).replaced;
        assert_eq!(replaced, Some(context(0, "http://d")), "the directory is gone, and that is told");
        assert_eq!(contexts.current.as_deref(), Some("local-2"));
    }

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
