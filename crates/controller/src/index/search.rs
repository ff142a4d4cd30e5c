//! A filter as the index knows its words: which blocks can be passed over, and which jobs it shows.

use longshore_model::{AgentId, ID_TEXT_LEN, JobId, JobStatus};
use memchr::memmem::Finder;

use super::blocks::Block;
use super::entry::{Entry, Share};
use super::filter::Filter;
use super::texts::{TextId, Texts};

/// Bytes of text that are looked through in the time that a job takes.
const BYTES_A_LOOK: usize = 128;
/// Texts of a block of which is known whether they have it that are asked in the time that a job takes.
const KNOWN_A_LOOK: usize = 16;
/// Shares of a job that are looked through in the time that a job takes.
const SHARES_A_LOOK: usize = 8;

/// What is looked for.
pub(super) struct Wanted<'a> {
    filter: &'a Filter,
    operation: Option<TextId>,
    target: Option<TextId>,
    submitted_by: Option<TextId>,
    annotations: Vec<(TextId, TextId)>,
    host: Option<Host>,
    text: Option<Text<'a>>,
    /// What the search has cost so far, in jobs looked at.
    n_looks: usize,
}

/// Who has or had it: a name of hosts, an agent's id, or a word that is both.
struct Host {
    name: Option<TextId>,
    agent: Option<AgentId>,
}

/// A part of anything that lists show.
struct Text<'a> {
    texts: &'a Texts,
    finder: Finder<'static>,
    /// What is known of each text: many jobs have the same.
    known: Vec<Known>,
    id: IdPart,
}

#[derive(Clone, Copy)]
enum Known {
    Not,
    Has,
    HasNot,
}

/// How the text may stand in a job's id.
enum IdPart {
    Never,
    Whole(JobId),
    Somewhere,
}

impl<'a> Wanted<'a> {
    /// `None` if there is a word that no job has.
    pub(super) fn new(filter: &'a Filter, texts: &'a Texts) -> Option<Self> {
        let find = |word: &Option<String>| match word {
            Some(word) => texts.find(word).map(Some),
            None => Some(None),
        };
        let annotations = filter.annotations.iter().map(|(key, value)| Some((texts.find(key)?, texts.find(value)?)));
        let host = match &filter.host {
            Some(word) => {
                let host = Host { name: texts.find(word), agent: word.parse().ok() };
                Some(host).filter(|host| host.name.is_some() || host.agent.is_some()).map(Some)?
            }
            None => None,
        };
        Some(Self {
            filter,
            operation: find(&filter.operation)?,
            target: find(&filter.target)?,
            submitted_by: find(&filter.submitter)?,
            annotations: annotations.collect::<Option<_>>()?,
            host,
            text: filter.text.as_deref().map(|text| Text::new(&text.to_lowercase(), texts)),
            n_looks: 0,
        })
    }

    /// What the search has cost so far.
    pub(super) fn n_looks(&self) -> usize {
        self.n_looks
    }

    /// Whether jobs of this status are wanted.
    pub(super) fn takes_status(&self, status: Option<JobStatus>) -> bool {
        self.filter.statuses.is_empty() || status.is_some_and(|status| self.filter.statuses.contains(&status))
    }

    /// Whether jobs of a status are wanted that some in the block have.
    pub(super) fn takes_a_status_of(&self, block: &Block) -> bool {
        self.filter.statuses.is_empty() || self.filter.statuses.iter().any(|status| block.has_status(*status))
    }

    /// `false` if no job of the block is wanted.
    pub(super) fn may_be_in(&mut self, block: &Block) -> bool {
        self.n_looks += 1;
        let has = |text: &Option<TextId>| text.is_none_or(|text| block.may_have_text(text));
        self.takes_a_status_of(block)
            && has(&self.operation)
            && has(&self.target)
            && has(&self.submitted_by)
            && self.annotations.iter().all(|(key, value)| block.may_have_text(*key) && block.may_have_text(*value))
            && self.host.as_ref().is_none_or(|host| {
                host.name.is_some_and(|name| block.may_have_text(name)) || host.agent.is_some_and(|agent| block.may_have_agent(agent))
            })
            && match &mut self.text {
                Some(text) => text.may_be_in(block, &mut self.n_looks),
                None => true,
            }
    }

    /// Whether a job is wanted.
    pub(super) fn is(&mut self, entry: &Entry) -> bool {
        self.n_looks += 1;
        let is = |wanted: &Option<TextId>, found: TextId| wanted.is_none_or(|wanted| wanted == found);
        if !(self.takes_status(entry.filed)
            && is(&self.operation, entry.operation)
            && is(&self.target, entry.target)
            && is(&self.submitted_by, entry.submitted_by)
            && self.filter.since.as_ref().is_none_or(|since| entry.submitted_at >= since.at)
            && self.filter.until.as_ref().is_none_or(|until| entry.submitted_at < until.at)
            && self.annotations.iter().all(|pair| entry.annotations.contains(pair)))
        {
            return false;
        }
        if self.host.is_some() || self.text.is_some() {
            self.n_looks += entry.shares.len() / SHARES_A_LOOK;
        }
        self.host.as_ref().is_none_or(|host| host.is_of(entry))
            && match &mut self.text {
                Some(text) => text.is_in(entry, &mut self.n_looks),
                None => true,
            }
    }
}

impl Host {
    fn is_of(&self, entry: &Entry) -> bool {
        entry.shares.iter().any(|share| match share.execution.holder() {
            Some((agent, _)) => self.agent == Some(agent) || self.name.is_some() && self.name == share.host,
            None => self.agent.is_some() && self.agent == share.id.agent(),
        })
    }
}

impl<'a> Text<'a> {
    fn new(needle: &str, texts: &'a Texts) -> Self {
        let id = match needle.parse() {
            Ok(id) => IdPart::Whole(id),
            Err(_) if may_be_in_id(needle) => IdPart::Somewhere,
            Err(_) => IdPart::Never,
        };
        Self { texts, finder: Finder::new(needle).into_owned(), known: vec![Known::Not; texts.n_places()], id }
    }

    fn may_be_in(&mut self, block: &Block, n_looks: &mut usize) -> bool {
        let by_id = match self.id {
            IdPart::Never => false,
            IdPart::Whole(id) => block.ids().binary_search(&id).is_ok(),
            IdPart::Somewhere => block.ids().iter().any(|id| self.is_in_id(*id, n_looks)),
        };
        if by_id {
            return true;
        }
        let found = block.texts().iter().position(|text| self.has(*text, n_looks));
        *n_looks += found.unwrap_or(block.texts().len()) / KNOWN_A_LOOK;
        found.is_some()
    }

    fn is_in(&mut self, entry: &Entry, n_looks: &mut usize) -> bool {
        let mut has = |text| self.has(text, n_looks);
        entry.texts().any(&mut has) || entry.shares.iter().flat_map(Share::texts).any(has) || self.is_in_id(entry.id, n_looks)
    }

    fn is_in_id(&self, id: JobId, n_looks: &mut usize) -> bool {
        match self.id {
            IdPart::Never => false,
            IdPart::Whole(whole) => whole == id,
            IdPart::Somewhere => {
                *n_looks += 1;
                self.finder.find(id.encode(&mut [0; ID_TEXT_LEN]).as_bytes()).is_some()
            }
        }
    }

    /// Whether a text has it, in whatever case. A number that nobody uses any more has nothing.
    fn has(&mut self, text: TextId, n_looks: &mut usize) -> bool {
        let known = &mut self.known[text.place()];
        if let Known::Not = known {
            let text = self.texts.get(text);
            *n_looks += 1 + text.len() / BYTES_A_LOOK;
            let is_lower = text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase());
            let has = if is_lower { self.finder.find(text.as_bytes()) } else { self.finder.find(text.to_lowercase().as_bytes()) };
            *known = if has.is_some() { Known::Has } else { Known::HasNot };
        }
        matches!(known, Known::Has)
    }
}

/// Whether a text could be a part of an id: most that people look for could not.
fn may_be_in_id(text: &str) -> bool {
    let digits = text.strip_prefix(JobId::PREFIX).or_else(|| text.strip_prefix('-')).unwrap_or(text);
    let is_digit = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase() && !matches!(byte, b'i' | b'l' | b'o' | b'u');
    text.len() <= ID_TEXT_LEN && digits.bytes().all(is_digit)
}
