//! Exit codes.

use std::process::ExitCode;

/// The exit code of a command. It is the same in every output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// Done, or nothing is wrong.
    Done = 0,
    /// There are warnings.
    Warnings = 1,
    /// Something fails.
    Failing = 2,
    /// The answer is not known: unreachable, forbidden, or the time is over.
    Unknown = 3,
    /// The command line, an input file or a name in it is wrong. Nothing was changed.
    Usage = 64,
    /// A fault of this program.
    Bug = 70,
    /// Of `local needs-renewal` alone: not known. systemd's `ExecCondition=` skips a unit on 1 to 254 and fails it on 255.
    NotKnown = 255,
}

impl Exit {
    /// The exit code of two results: 70 and 64 first, then 2, 3 and 1.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if other.rank() > self.rank() { other } else { self }
    }

    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    fn rank(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Warnings => 1,
            Self::Unknown => 2,
            Self::Failing => 3,
            Self::Usage => 4,
            Self::Bug => 5,
            Self::NotKnown => 6,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl FromIterator<Exit> for Exit {
    fn from_iter<T: IntoIterator<Item = Self>>(all: T) -> Self {
        all.into_iter().fold(Self::Done, Self::and)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_exceeds_unknown_and_unknown_exceeds_warnings() {
        use Exit::{Bug, Done, Failing, Unknown, Usage, Warnings};
        let ascending = [Done, Warnings, Unknown, Failing, Usage, Bug];
        for (index, low) in ascending.into_iter().enumerate() {
            for high in ascending.into_iter().skip(index) {
                assert_eq!(low.and(high), high);
                assert_eq!(high.and(low), high);
            }
        }
        assert_eq!([Warnings, Unknown, Failing, Done].into_iter().collect::<Exit>(), Failing);
        assert_eq!(ascending.map(Exit::code), [0, 1, 3, 2, 64, 70]);
    }
}
