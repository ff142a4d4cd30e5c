//! `--secret`: values that must not be seen, taken from the environment or from a file and never from the command line.

use std::fmt;

use clap::Args;
use longshore_model::wire::secret::{Secret, Secrets};

use crate::exit::Exit;
use crate::failure::Failure;

/// Variables whose values are secret.
#[derive(Clone, Default, Args)]
pub(crate) struct SecretFlags {
    /// A variable of the program whose value is secret: taken from the variable of that name here, or from FILE without its last line end.
    /// May be repeated.
    #[arg(long = "secret", value_name = "NAME[=@FILE]")]
    secrets: Vec<String>,
}

impl fmt::Debug for SecretFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Somebody may have written a value here, which is refused later.
        write!(f, "{} secrets", self.secrets.len())
    }
}

impl SecretFlags {
    /// Reads the values.
    pub(crate) fn read(&self) -> Result<Secrets, Failure> {
        self.read_with(|name| std::env::var(name))
    }

    fn read_with(&self, variable: impl Fn(&str) -> Result<String, std::env::VarError>) -> Result<Secrets, Failure> {
        let mut secrets = Secrets::new();
        for text in &self.secrets {
            let (name, value) = match text.split_once('=') {
                None => (text.as_str(), of_variable(text, &variable)?),
                Some((name, place)) => match place.strip_prefix('@') {
                    Some(path) => (name, of_file(name, path)?),
                    None => return Err(visible(&format!("--secret {name}=…"), name)),
                },
            };
            if secrets.insert(name.to_owned(), Secret::Plain(value)).is_some() {
                return Err(Failure::new(Exit::Usage, format!("the secret {name:?} is given twice")));
            }
        }
        Ok(secrets)
    }
}

fn of_variable(name: &str, variable: impl Fn(&str) -> Result<String, std::env::VarError>) -> Result<String, Failure> {
    variable(name).map_err(|error| {
        let why = match error {
            std::env::VarError::NotPresent => "the environment variable of that name is not set",
            std::env::VarError::NotUnicode(_) => "the environment variable of that name is not UTF-8",
        };
        Failure::new(Exit::Usage, format!("the secret {name:?} cannot be read"))
            .because(why)
            .hint(format!("export it, or name a file:     --secret {name}=@FILE"))
    })
}

fn of_file(name: &str, path: &str) -> Result<String, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::new(Exit::Usage, format!("the secret {name:?} cannot be read")).because(format!("{path}: {error}"))
    };
    let mut text = std::fs::read_to_string(path).map_err(unreadable)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// Refuses what would put a value where everybody on the host sees it. Does not repeat the value.
pub(crate) fn visible(what: &str, name: &str) -> Failure {
    Failure::new(Exit::Usage, format!("{what} has a secret on the command line"))
        .because("everybody on this host can read the command lines of programs, and shells keep them")
        .hint(format!("from a variable of that name:     --secret {name}"))
        .hint(format!("from a file:                      --secret {name}=@FILE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_from_variables_and_files_and_never_from_the_command_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from a file\r\n").unwrap();
        let variable = |name: &str| if name == "SET" { Ok("from a variable".to_owned()) } else { Err(std::env::VarError::NotPresent) };
        let read = |texts: &[&str]| SecretFlags { secrets: texts.iter().map(|text| (*text).to_owned()).collect() }.read_with(variable);

        let path = format!("F=@{}", file.path().display());
        let plain = |text: &str| Secret::Plain(text.to_owned());
        let expected = Secrets::from([("SET".to_owned(), plain("from a variable")), ("F".to_owned(), plain("from a file"))]);
        assert_eq!(read(&["SET", &path]).unwrap(), expected);
        for (texts, part) in [
            (&["A=hunter2"][..], "command lines"),
            (&["UNSET"], "is not set"),
            (&["A=@/nonexistent/x"], "/nonexistent/x"),
            (&["SET", "SET"], "twice"),
        ] {
            let refused = read(texts).unwrap_err();
            assert!(refused.exit == Exit::Usage && refused.text().contains(part), "{}", refused.text());
            assert!(!refused.text().contains("hunter2"), "{}", refused.text());
        }
        assert!(!format!("{:?}", SecretFlags { secrets: vec!["A=hunter2".to_owned()] }).contains("hunter2"));
    }
}
