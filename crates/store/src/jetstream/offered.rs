//! What a delivery is known by: a message, and its place among all deliveries of one life of a consumer.
//!
//! A broker numbers what it delivers as long as the consumer lives; one that is made again has forgotten everything and begins at one. So
//! two numbers are compared only within one life, and only if the consumer still has it: whoever compares knew of that life before its
//! own delivery, and asks for it after it has read of the other's.

use std::fmt;
use std::str::FromStr;

use async_nats::jetstream::consumer::Info;

/// When a consumer was made, in nanoseconds: tells its lives apart.
pub(super) type Life = i128;

/// A delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offered {
    /// The message's place in its stream.
    pub(super) message: u64,
    /// Counts the consumer's deliveries.
    pub(super) number: u64,
    /// The consumer's life, as last known before the delivery was asked for.
    pub(super) life: Life,
}

impl Offered {
    /// Whether this is a later delivery of the same message, in one life.
    pub(super) fn repeats(self, earlier: Self) -> bool {
        (self.message, self.life) == (earlier.message, earlier.life) && self.number > earlier.number
    }
}

/// The life that a consumer has.
pub(super) fn life(of: &Info) -> Life {
    of.created.unix_timestamp_nanos()
}

impl fmt::Display for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, number, life } = self;
        write!(f, "{message}.{number}.{life}")
    }
}

/// What cannot be read proves nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

impl FromStr for Offered {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let parts: Vec<&str> = text.split('.').collect();
        let [message, number, life] = parts[..] else { return Err(Unreadable) };
        let number_of = |text: &str| text.parse().map_err(|_| Unreadable);
        Ok(Self { message: number_of(message)?, number: number_of(number)?, life: life.parse().map_err(|_| Unreadable)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_repeats_an_earlier_one_of_the_same_message_in_the_same_life_only() {
        let one = Offered { message: 7, number: 3, life: 100 };
        let later = Offered { number: 9, ..one };
        assert!(later.repeats(one));
        assert!(!one.repeats(later) && !one.repeats(one));
        assert!(!Offered { message: 8, ..later }.repeats(one));
        assert!(!Offered { life: 101, ..later }.repeats(one));
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let offered = Offered { message: 7, number: u64::MAX, life: 1_795_364_000_123_456_789 };
        assert_eq!(offered.to_string().parse(), Ok(offered));
        for text in ["", "7", "7.3", "7.3.x", "7.3.1.1", "-1.3.1", "7.3. 1", "99999999999999999999.1.1"] {
            assert_eq!(text.parse::<Offered>(), Err(Unreadable), "{text}");
        }
    }
}
