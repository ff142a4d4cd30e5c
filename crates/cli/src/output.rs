//! The two streams: data on standard output, words for people on standard error.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;

use crate::failure::Failure;
use crate::render::printable_lines;

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people; may change between releases.
    #[default]
    Table,
    /// For people, with more columns.
    Wide,
    /// One document.
    Json,
    /// One object a line.
    Jsonl,
    /// One document.
    Yaml,
    /// Bare identifiers.
    Name,
}

/// When colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless the environment says otherwise.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Where a command writes, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// The form of data.
    pub(crate) format: Format,
    /// Whether standard output is a terminal.
    pub(crate) stdout_is_terminal: bool,
    /// Whether standard error is a terminal.
    pub(crate) stderr_is_terminal: bool,
    quiet: bool,
}

impl Output {
    /// The process's own streams.
    pub(crate) fn new(format: Format, color: Color, quiet: bool) -> Self {
        match color {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        }
        .write_global();
        let stdout_is_terminal = std::io::stdout().is_terminal();
        Self { format, stdout_is_terminal, stderr_is_terminal: std::io::stderr().is_terminal(), quiet }
    }

    /// Writes lines of data.
    pub(crate) fn lines(&self, text: impl Display) -> Result<(), Failure> {
        let mut stdout = anstream::stdout().lock();
        writeln!(stdout, "{text}")?;
        Ok(stdout.flush()?)
    }

    /// Writes data as it is, bytes and all.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes)?;
        Ok(stdout.flush()?)
    }

    /// Writes one thing as the format says; `table` and `name` make the forms for people.
    pub(crate) fn item<T: Serialize>(
        &self,
        item: &T,
        table: impl FnOnce(bool) -> String,
        name: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.lines(printable_lines(&table(false))),
            Format::Wide => self.lines(printable_lines(&table(true))),
            Format::Json => self.lines(to_json_pretty(item)),
            Format::Jsonl => self.lines(to_json(item)),
            Format::Yaml => self.lines(to_yaml(item)),
            Format::Name => self.lines(name()),
        }
    }

    /// Writes a list as the format says: `whole` is the document, `items` its lines.
    pub(crate) fn list<W: Serialize, T: Serialize>(
        &self,
        whole: &W,
        items: &[T],
        table: impl FnOnce(bool) -> String,
        name: impl Fn(&T) -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.lines(to_json_pretty(whole)),
            Format::Yaml => self.lines(to_yaml(whole)),
            Format::Table | Format::Wide | Format::Jsonl | Format::Name if items.is_empty() => Ok(()),
            Format::Table => self.lines(printable_lines(&table(false))),
            Format::Wide => self.lines(printable_lines(&table(true))),
            Format::Jsonl => items.iter().try_for_each(|item| self.lines(to_json(item))),
            Format::Name => items.iter().try_for_each(|item| self.lines(name(item))),
        }
    }

    /// Whether a machine reads standard output.
    pub(crate) fn is_for_machines(&self) -> bool {
        match self.format {
            Format::Table | Format::Wide => false,
            Format::Json | Format::Jsonl | Format::Yaml | Format::Name => true,
        }
    }

    /// Says something to people, in words that cannot steer a terminal; a closed standard error is nobody's concern.
    pub(crate) fn say(&self, text: impl Display) {
        if !self.quiet {
            let _ = writeln!(anstream::stderr().lock(), "{}", printable_lines(&text.to_string()));
        }
    }

    /// Writes bytes to standard error as they are.
    pub(crate) fn say_bytes(&self, bytes: &[u8]) {
        let _ = std::io::stderr().lock().write_all(bytes);
    }

    /// Suggests the next command, on a terminal only.
    pub(crate) fn suggest(&self, text: impl Display) {
        if self.stderr_is_terminal && !self.is_for_machines() {
            self.say(text);
        }
    }

    /// Whether progress is drawn, rather than told in lines.
    pub(crate) fn draws_progress(&self) -> bool {
        self.stderr_is_terminal && !self.quiet && std::env::var_os("CI").is_none()
    }

    /// Tells of a failure, as the format wants it.
    pub(crate) fn fail(&self, failure: &Failure) {
        let text = match self.format {
            Format::Json | Format::Jsonl => failure.document().map(|document| format!("{document}\n")).unwrap_or_default(),
            Format::Table | Format::Wide | Format::Yaml | Format::Name => failure.text(),
        };
        let _ = write!(anstream::stderr().lock(), "{text}");
    }
}

/// Compact JSON.
pub(crate) fn to_json<T: Serialize>(item: &T) -> String {
    serde_json::to_string(item).expect("what the API said was JSON")
}

fn to_json_pretty<T: Serialize>(item: &T) -> String {
    serde_json::to_string_pretty(item).expect("what the API said was JSON")
}

fn to_yaml<T: Serialize>(item: &T) -> String {
    let value = serde_json::to_value(item).expect("what the API said was JSON");
    let text = serde_saphyr::to_string(&value).expect("every JSON value has a YAML form");
    text.trim_end().to_owned()
}
