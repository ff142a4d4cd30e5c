//! Dead letters on a stream of their own, one message a job.

use async_nats::HeaderMap;
use async_nats::jetstream::stream::Stream;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;
use longshore_model::JobId;
use longshore_model::wire::dead_letter::DeadLetter;

use super::link::{Guard, Shared, Written, from_json, to_json};
use super::tail::{From, Item, Tail};
use crate::{DeadLetters, Error, LetterEvent, LetterPut, LetterStream, Revision, StoredLetter};

pub(super) struct JetStreamDeadLetters {
    link: Shared,
    stream: Stream<()>,
}

impl JetStreamDeadLetters {
    pub(super) async fn open(link: Shared) -> Result<Self, Error> {
        let stream = link.stream(&link.layout.dead_letters, "opening the dead letters").await?;
        Ok(Self { link, stream })
    }
}

#[async_trait]
impl DeadLetters for JetStreamDeadLetters {
    async fn put(&self, letter: &DeadLetter, after: Revision) -> Result<LetterPut, Error> {
        let subject = self.link.layout.dead_letter(letter.job);
        let value = to_json(letter, "dead letter")?;
        let guard = Guard::Last(&subject, after);
        let written = self.link.write(subject.clone(), value.clone(), HeaderMap::new(), guard, "storing a dead letter").await;
        match written {
            Ok(Written::Stored(revision)) => Ok(LetterPut::Stored(revision)),
            // Our own earlier try may be what stands in the way.
            Ok(Written::Guarded) => match self.link.read_last(&self.stream, &subject, "reading a dead letter").await? {
                Some(message) if message.payload == value && message.sequence > after => Ok(LetterPut::Stored(message.sequence)),
                Some(_) | None => Ok(LetterPut::Conflict),
            },
            Err(Error::Full { .. }) => Err(Error::Full { store: self.link.layout.dead_letters.clone() }),
            Err(fault) => Err(fault),
        }
    }

    async fn load(&self, job: JobId) -> Result<Option<StoredLetter>, Error> {
        let subject = self.link.layout.dead_letter(job);
        let message = self.link.read_last(&self.stream, &subject, "reading a dead letter").await?;
        let stored = |message: async_nats::jetstream::message::StreamMessage| {
            Ok(StoredLetter { revision: message.sequence, letter: from_json(&subject, &message.payload)? })
        };
        message.map(stored).transpose()
    }

    async fn delete(&self, job: JobId) -> Result<(), Error> {
        self.link.purge(&self.stream, &self.link.layout.dead_letter(job), "removing a dead letter").await
    }

    async fn follow(&self) -> Result<LetterStream, Error> {
        let layout = &self.link.layout;
        let tail = Tail::open(self.link.clone(), layout.dead_letters.clone(), layout.dead_letter_subjects(), From::Newest).await?;
        Ok(stream::unfold(Some(tail), |tail| async move {
            let mut tail = tail?;
            loop {
                match tail.next().await {
                    Ok(Item::Current) => return Some((Ok(LetterEvent::Current), Some(tail))),
                    Ok(Item::Message(message, place)) => match from_json(&message.subject, &message.payload) {
                        Ok(letter) => {
                            let stored = StoredLetter { revision: place.sequence, letter };
                            return Some((Ok(LetterEvent::Letter(Box::new(stored))), Some(tail)));
                        }
                        Err(error) => tracing::error!(%error, "a dead letter cannot be read, and is passed over"),
                    },
                    Err(fault) => return Some((Err(fault), None)),
                }
            }
        })
        .boxed())
    }
}
