//! Jobs in the order of their ids, in blocks of some hundred neighbours.
//!
//! Each block knows how many of its jobs have each status, and which texts and agents occur in it, so that whoever looks for something
//! rare passes over it in one step. What it knows may be too much, never too little: texts that have gone stay until they are counted anew.

use std::ops::Range;

use longshore_model::{AgentId, ExecutionId, JobId, JobStatus};

use super::entry::{Entry, Share};
use super::texts::TextId;

/// Jobs of one block.
const BLOCK_JOBS: usize = 512;
/// Texts or agents of a block that are not worth counting anew.
const FEW: usize = 64;

/// All jobs.
#[derive(Debug, PartialEq)]
pub(super) struct Blocks {
    /// In the order of their first ids. None is empty.
    blocks: Vec<Block>,
    counts: Counts,
    /// Jobs that a block has room for.
    room: usize,
}

/// Jobs by [`JobStatus`].
pub(super) type Counts = [usize; JobStatus::ALL.len()];

/// Neighbours.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Block {
    /// In order, as `entries`: the search for one is a walk through 8 KiB.
    ids: Vec<JobId>,
    #[expect(clippy::vec_box, reason = "the oldest are removed one after the other, and moving all others up is to be cheap")]
    entries: Vec<Box<Entry>>,
    counts: Counts,
    texts: Occurring<TextId>,
    agents: Occurring<AgentId>,
    n_removed: usize,
}

/// Where a job is, until one is added or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    block: usize,
    entry: usize,
}

impl Default for Blocks {
    fn default() -> Self {
        Self::with_room(BLOCK_JOBS)
    }
}

impl Blocks {
    /// Blocks of at most `room` jobs, at least two.
    pub(super) fn with_room(room: usize) -> Self {
        Self { blocks: Vec::new(), counts: Counts::default(), room: room.max(2) }
    }

    pub(super) fn find(&self, id: JobId) -> Option<Place> {
        let block = self.block_of(id)?;
        let entry = self.blocks[block].ids.binary_search(&id).ok()?;
        Some(Place { block, entry })
    }

    pub(super) fn get(&self, id: JobId) -> Option<&Entry> {
        self.find(id).map(|place| self.at(place))
    }

    pub(super) fn at(&self, place: Place) -> &Entry {
        &self.blocks[place.block].entries[place.entry]
    }

    /// Whoever changes texts, agents or the status has to [note](Self::note_share) and [file](Self::file) it.
    pub(super) fn at_mut(&mut self, place: Place) -> &mut Entry {
        &mut self.blocks[place.block].entries[place.entry]
    }

    /// The oldest job.
    pub(super) fn first(&self) -> Option<&Entry> {
        self.blocks.first()?.entries.first().map(Box::as_ref)
    }

    /// Oldest first.
    pub(super) fn all(&self) -> &[Block] {
        &self.blocks
    }

    /// Jobs by status, of those that are filed.
    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Adds a job that is not there and not filed yet.
    pub(super) fn insert(&mut self, entry: Box<Entry>) -> Place {
        let id = entry.id;
        let mut block = self.block_of(id).unwrap_or(0);
        if self.blocks.get(block).is_none_or(|block| block.ids.len() >= self.room) {
            block = self.make_room(block, id);
        }
        let neighbours = &mut self.blocks[block];
        let at = neighbours.ids.partition_point(|other| *other < id);
        neighbours.note(&entry);
        neighbours.ids.insert(at, id);
        neighbours.entries.insert(at, entry);
        Place { block, entry: at }
    }

    /// Takes a job out.
    pub(super) fn remove(&mut self, id: JobId) -> Option<Box<Entry>> {
        let Place { block, entry } = self.find(id)?;
        let neighbours = &mut self.blocks[block];
        neighbours.ids.remove(entry);
        let entry = neighbours.entries.remove(entry);
        if let Some(status) = entry.filed {
            neighbours.counts[status as usize] -= 1;
            self.counts[status as usize] -= 1;
        }
        neighbours.n_removed += 1;
        if neighbours.ids.is_empty() {
            self.blocks.remove(block);
        } else if neighbours.n_removed > neighbours.ids.len() {
            neighbours.count_anew();
        }
        Some(entry)
    }

    /// Counts a job under this status, and no longer under the one before.
    pub(super) fn file(&mut self, place: Place, status: JobStatus) {
        let block = &mut self.blocks[place.block];
        let before = block.entries[place.entry].filed.replace(status);
        if before == Some(status) {
            return;
        }
        for counts in [&mut block.counts, &mut self.counts] {
            counts[status as usize] += 1;
            if let Some(before) = before {
                counts[before as usize] -= 1;
            }
        }
    }

    /// Notes what occurs in one share of a job.
    pub(super) fn note_share(&mut self, place: Place, share: usize) {
        let block = &mut self.blocks[place.block];
        let share = &block.entries[place.entry].shares[share];
        let is_growing = note_share(&mut block.texts, &mut block.agents, share);
        if is_growing {
            block.count_anew();
        }
    }

    /// The block that has this id, if any has.
    fn block_of(&self, id: JobId) -> Option<usize> {
        self.blocks.partition_point(|block| block.first() <= id).checked_sub(1)
    }

    /// Room for `id` at `block`, which is full or not there: ids as a rule grow, so behind the last block comes a new one, and blocks stay full.
    fn make_room(&mut self, block: usize, id: JobId) -> usize {
        let is_last = block + 1 >= self.blocks.len();
        let Some(full) = self.blocks.get_mut(block) else {
            self.blocks.push(Block::default());
            return block;
        };
        if is_last && full.ids.last().is_some_and(|last| *last < id) {
            let (ids, entries) = (Vec::with_capacity(self.room), Vec::with_capacity(self.room));
            self.blocks.push(Block { ids, entries, ..Block::default() });
            return block + 1;
        }
        let upper = full.split();
        let goes_up = upper.first() <= id;
        self.blocks.insert(block + 1, upper);
        block + usize::from(goes_up)
    }
}

impl Block {
    /// The oldest job's. Of a block that is about to be filled, higher than any.
    fn first(&self) -> JobId {
        self.ids.first().copied().unwrap_or(JobId::from_bits(u128::MAX))
    }

    pub(super) fn ids(&self) -> &[JobId] {
        &self.ids
    }

    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator {
        self.entries.iter().map(Box::as_ref)
    }

    pub(super) fn entry(&self, at: usize) -> &Entry {
        &self.entries[at]
    }

    /// Where the jobs from `oldest` up to before `end` are.
    pub(super) fn within(&self, oldest: JobId, end: Option<JobId>) -> Range<usize> {
        // Most blocks are within as a whole: a look at both ends instead of a search through memory that is in no cache.
        let from = if self.first() >= oldest { 0 } else { self.ids.partition_point(|id| *id < oldest) };
        let below = match end {
            Some(end) if self.ids.last().is_some_and(|last| *last >= end) => self.ids.partition_point(|id| *id < end),
            Some(_) | None => self.ids.len(),
        };
        from..below
    }

    /// How many of its jobs have a status that `is_wanted`.
    pub(super) fn n_with(&self, is_wanted: impl Fn(JobStatus) -> bool) -> usize {
        JobStatus::ALL.into_iter().filter(|status| is_wanted(*status)).map(|status| self.counts[status as usize]).sum()
    }

    pub(super) fn has_status(&self, status: JobStatus) -> bool {
        self.counts[status as usize] > 0
    }

    /// `false` if no job here has it.
    pub(super) fn may_have_text(&self, text: TextId) -> bool {
        self.texts.sorted.binary_search(&text).is_ok()
    }

    /// `false` if no job here is or was this agent's.
    pub(super) fn may_have_agent(&self, agent: AgentId) -> bool {
        self.agents.sorted.binary_search(&agent).is_ok()
    }

    /// Every text that occurs here, and some that did.
    pub(super) fn texts(&self) -> &[TextId] {
        &self.texts.sorted
    }

    fn note(&mut self, entry: &Entry) {
        for text in entry.texts() {
            self.texts.note(text);
        }
        for share in &entry.shares {
            note_share(&mut self.texts, &mut self.agents, share);
        }
    }

    /// Its upper half.
    fn split(&mut self) -> Self {
        let half = self.ids.len() / 2;
        let mut upper = Self { ids: self.ids.split_off(half), entries: self.entries.split_off(half), ..Self::default() };
        for entry in &upper.entries {
            if let Some(status) = entry.filed {
                self.counts[status as usize] -= 1;
                upper.counts[status as usize] += 1;
            }
        }
        upper.count_anew();
        self.count_anew();
        upper
    }

    /// Forgets what no longer occurs.
    fn count_anew(&mut self) {
        (self.texts, self.agents, self.n_removed) = (Occurring::default(), Occurring::default(), 0);
        let entries = std::mem::take(&mut self.entries);
        for entry in &entries {
            self.note(entry);
        }
        self.entries = entries;
        self.texts.settle();
        self.agents.settle();
    }
}

/// Whether so much came that it should be counted anew.
fn note_share(texts: &mut Occurring<TextId>, agents: &mut Occurring<AgentId>, share: &Share) -> bool {
    let holder = share.execution.holder().map(|(agent, _)| agent);
    let addressed = match share.id {
        ExecutionId::Any => None,
        ExecutionId::Agent(agent) => Some(agent),
    };
    share.texts().for_each(|text| texts.note(text));
    holder.into_iter().chain(addressed).for_each(|agent| agents.note(agent));
    texts.is_grown() || agents.is_grown()
}

/// What occurs in a block, sorted.
#[derive(Debug, PartialEq)]
struct Occurring<T> {
    sorted: Vec<T>,
    /// As many as there were when they were counted.
    n_counted: usize,
}

impl<T> Default for Occurring<T> {
    fn default() -> Self {
        Self { sorted: Vec::new(), n_counted: 0 }
    }
}

impl<T: Ord + Copy> Occurring<T> {
    fn note(&mut self, one: T) {
        if let Err(at) = self.sorted.binary_search(&one) {
            self.sorted.insert(at, one);
        }
    }

    /// Whether most of it came after it was counted.
    fn is_grown(&self) -> bool {
        self.sorted.len() > 2 * self.n_counted.max(FEW)
    }

    fn settle(&mut self) {
        self.n_counted = self.sorted.len();
        self.sorted.shrink_to_fit();
    }
}

#[cfg(test)]
impl Blocks {
    /// Everything that must be so at any time.
    pub(super) fn check(&self) {
        let mut counts = Counts::default();
        let mut last = None;
        for block in &self.blocks {
            assert!(!block.ids.is_empty() && block.ids.len() <= self.room);
            assert!(block.ids.iter().eq(block.entries().map(|entry| &entry.id).collect::<Vec<_>>()));
            let mut own = Counts::default();
            for entry in block.entries() {
                assert!(last.replace(entry.id) < Some(entry.id));
                if let Some(status) = entry.filed {
                    own[status as usize] += 1;
                    counts[status as usize] += 1;
                }
                assert!(entry.texts().chain(entry.shares.iter().flat_map(Share::texts)).all(|text| block.may_have_text(text)));
                assert!(entry.shares.iter().filter_map(|share| share.id.agent()).all(|agent| block.may_have_agent(agent)));
                let mut holders = entry.shares.iter().filter_map(|share| share.execution.holder());
                assert!(holders.all(|(agent, _)| block.may_have_agent(agent)));
            }
            assert_eq!(own, block.counts);
        }
        assert_eq!(counts, self.counts);
    }
}
