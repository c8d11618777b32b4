//! Faults of a provider, and the messages that request them.

use http::StatusCode;

/// A provider's treatment of a question. All but [`Behaviour::Echo`] are requested by a last message that begins with `!`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers.
    Echo,
    /// `!401`: refuses the key.
    Unauthorized,
    /// `!429 7`: refuses for seven seconds.
    RateLimited {
        /// The value of `Retry-After`.
        retry_after: u64,
    },
    /// `!500`, or any other status of an error or, to `/v1/models`, a redirect.
    Refusal {
        /// The status.
        status: StatusCode,
    },
    /// `!late 3`: no byte for three seconds, then an answer.
    LateFirstByte {
        /// The delay.
        seconds: u64,
    },
    /// `!error`: an error object in the middle of the stream.
    ErrorMidStream,
    /// `!stall`: nothing more in the middle of the stream, permanently.
    Stall,
    /// `!pause 3`: nothing for three seconds in the middle of the stream.
    Pause {
        /// The delay.
        seconds: u64,
    },
    /// `!cut`: the connection breaks in the middle of the stream.
    Cut,
    /// `!end`: the stream ends in the middle, without a finish reason and `[DONE]`.
    EarlyEnd,
    /// `!garbage`: a line in the middle of the stream that is no JSON.
    Garbage,
    /// `!oversized`: a line of several megabytes in the middle of the stream.
    Oversized,
    /// `!length`: an answer that was cut off at the model's limit.
    Length,
}

impl Behaviour {
    /// The behaviour that a message requests.
    #[must_use]
    pub fn of(message: &str) -> Self {
        let Some(wish) = message.strip_prefix('!') else { return Self::Echo };
        let (name, number) = wish.split_once(' ').unwrap_or((wish, ""));
        let number = number.trim().parse().unwrap_or(1);
        match name {
            "401" => Self::Unauthorized,
            "429" => Self::RateLimited { retry_after: number },
            "late" => Self::LateFirstByte { seconds: number },
            "error" => Self::ErrorMidStream,
            "stall" => Self::Stall,
            "pause" => Self::Pause { seconds: number },
            "cut" => Self::Cut,
            "end" => Self::EarlyEnd,
            "garbage" => Self::Garbage,
            "oversized" => Self::Oversized,
            "length" => Self::Length,
            status => match status.parse().ok().filter(|status: &StatusCode| status.as_u16() >= 300) {
                Some(status) => Self::Refusal { status },
                None => Self::Echo,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_begins_with_a_bang_asks_for_something() {
        assert_eq!(Behaviour::of("hello"), Behaviour::Echo);
        assert_eq!(Behaviour::of("!429 7"), Behaviour::RateLimited { retry_after: 7 });
        assert_eq!(Behaviour::of("!503"), Behaviour::Refusal { status: StatusCode::SERVICE_UNAVAILABLE });
        assert_eq!(Behaviour::of("!stall"), Behaviour::Stall);
        assert_eq!(Behaviour::of("!"), Behaviour::Echo);
    }
}
