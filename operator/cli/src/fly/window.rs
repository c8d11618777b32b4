//! The window of `--within`: when a deployment may restart machines.

use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;

/// A span of the day on some days of the week, in a time zone.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    days: Vec<Weekday>,
    start: Time,
    end: Time,
    zone: TimeZone,
    text: String,
}

impl Window {
    /// True if a moment is in the window. A window that ends before it starts lasts until the next day.
    pub(crate) fn contains(&self, now: Timestamp) -> bool {
        let local = now.to_zoned(self.zone.clone());
        let (time, day) = (local.time(), local.weekday());
        let is_day = |day| self.days.is_empty() || self.days.contains(&day);
        if self.start < self.end {
            is_day(day) && self.start <= time && time < self.end
        } else {
            (is_day(day) && self.start <= time) || (is_day(day.previous()) && time < self.end)
        }
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not like `02:00-04:00`, or `Sat,Sun 22:00-02:00 Europe/Berlin`");
        let mut words = text.split_whitespace().peekable();
        let is_days = words.peek().is_some_and(|word| word.starts_with(|c: char| c.is_ascii_alphabetic()));
        let days = if is_days { words.next().unwrap_or_default() } else { "" };
        let days = days.split(',').filter(|day| !day.is_empty()).map(weekday).collect::<Option<Vec<_>>>();
        let span = words.next().and_then(|word| word.split_once('-'));
        let zone = match words.next() {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|_| format!("{name:?} is no time zone of this machine"))?,
        };
        let (Some(days), Some((start, end)), None) = (days, span, words.next()) else { return Err(wrong()) };
        let time = |text: &str| Time::strptime("%H:%M", text).map_err(|_| wrong());
        let (start, end) = (time(start)?, time(end)?);
        if start == end {
            return Err(format!("{text:?} starts and ends at the same time"));
        }
        Ok(Self { days, start, end, zone, text: text.to_owned() })
    }
}

fn weekday(text: &str) -> Option<Weekday> {
    Some(match text.to_ascii_lowercase().as_str() {
        "mon" => Weekday::Monday,
        "tue" => Weekday::Tuesday,
        "wed" => Weekday::Wednesday,
        "thu" => Weekday::Thursday,
        "fri" => Weekday::Friday,
        "sat" => Weekday::Saturday,
        "sun" => Weekday::Sunday,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("02:00-04:00", "2026-11-30T02:00:00Z", true)]
    #[case("02:00-04:00", "2026-11-30T04:00:00Z", false)]
    #[case("22:00-02:00", "2026-11-30T01:59:00Z", true)]
    #[case("22:00-02:00", "2026-11-30T12:00:00Z", false)]
    // Monday, 2026-11-30: the window of Sunday lasts until 02:00.
    #[case("Sun 22:00-02:00", "2026-11-30T01:00:00Z", true)]
    #[case("Mon,Tue 22:00-02:00", "2026-11-30T01:00:00Z", false)]
    #[case("02:00-04:00 Europe/Berlin", "2026-11-30T01:30:00Z", true)]
    #[case("02:00-04:00 Europe/Berlin", "2026-07-30T00:30:00Z", true)]
    fn a_window_contains_its_moments(#[case] window: &str, #[case] now: &str, #[case] is_inside: bool) {
        assert_eq!(window.parse::<Window>().unwrap().contains(now.parse().unwrap()), is_inside);
    }

    #[rstest]
    fn other_texts_are_refused(
        #[values(
            "",
            "02:00",
            "2-4",
            "25:00-26:00",
            "Foo 02:00-04:00",
            "02:00-02:00",
            "02:00-04:00 Mars/Base",
            "02:00-04:00 UTC x"
        )]
        text: &str,
    ) {
        assert!(text.parse::<Window>().is_err());
    }
}
