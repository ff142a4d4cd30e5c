//! The texts that jobs have in common: operations, targets, hosts, annotations. Each is kept once, counted, and known by a number, so that
//! a job takes four bytes for it and a search looks at it once.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

/// A text's number. Another text may have it once nobody uses this one any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TextId(NonZeroU32);

impl TextId {
    fn at(place: usize) -> Self {
        let number = u32::try_from(place + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("four thousand million texts do not fit into memory"))
    }

    /// Numbers are dense: what is known of each text can stand in a list.
    pub(super) fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// All texts.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Texts {
    ids: HashMap<Arc<str>, TextId>,
    kept: Vec<Option<Kept>>,
    free: Vec<TextId>,
}

#[derive(Debug, PartialEq)]
struct Kept {
    text: Arc<str>,
    n_uses: usize,
}

impl Texts {
    /// One more use of a text, to be given back by [`Self::release`].
    pub(super) fn take(&mut self, text: &str) -> TextId {
        if let Some(id) = self.ids.get(text).copied() {
            if let Some(kept) = &mut self.kept[id.place()] {
                kept.n_uses += 1;
            }
            return id;
        }
        let text: Arc<str> = text.into();
        let kept = Some(Kept { text: Arc::clone(&text), n_uses: 1 });
        let id = match self.free.pop() {
            Some(id) => {
                self.kept[id.place()] = kept;
                id
            }
            None => {
                self.kept.push(kept);
                TextId::at(self.kept.len() - 1)
            }
        };
        self.ids.insert(text, id);
        id
    }

    /// Gives one use back.
    pub(super) fn release(&mut self, id: TextId) {
        let Some(kept) = &mut self.kept[id.place()] else { return };
        kept.n_uses -= 1;
        if kept.n_uses == 0 {
            self.ids.remove(&kept.text);
            self.kept[id.place()] = None;
            self.free.push(id);
        }
    }

    /// Makes `place` say `text`. Gives the number if it is another than before.
    pub(super) fn replace(&mut self, place: &mut Option<TextId>, text: Option<&str>) -> Option<TextId> {
        if place.map(|id| self.get(id)) == text {
            return None;
        }
        let new = text.map(|text| self.take(text));
        if let Some(old) = std::mem::replace(place, new) {
            self.release(old);
        }
        new
    }

    /// The number of a text that somebody uses.
    pub(super) fn find(&self, text: &str) -> Option<TextId> {
        self.ids.get(text).copied()
    }

    /// The text, which somebody uses.
    pub(crate) fn get(&self, id: TextId) -> &str {
        self.kept[id.place()].as_ref().map_or("", |kept| &kept.text)
    }

    /// Numbers given out so far: every place is below.
    pub(super) fn n_places(&self) -> usize {
        self.kept.len()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.kept.iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_once_and_until_its_last_use() {
        let mut texts = Texts::default();
        let (a, b) = (texts.take("a"), texts.take("b"));
        assert_eq!(texts.take("a"), a);
        assert_eq!((texts.get(a), texts.get(b), texts.find("c")), ("a", "b", None));
        texts.release(a);
        assert_eq!(texts.find("a"), Some(a));
        texts.release(a);
        assert_eq!(texts.find("a"), None);
        // The number is free for another.
        assert_eq!((texts.take("c"), texts.get(a)), (a, "c"));
        let mut place = Some(a);
        assert_eq!(texts.replace(&mut place, Some("c")), None);
        assert_eq!(texts.replace(&mut place, Some("b")), Some(b));
        texts.release(b);
        assert_eq!(texts.replace(&mut place, None), None);
        assert!(texts.is_empty());
    }
}
