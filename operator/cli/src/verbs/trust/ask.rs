//! Questions before trust ends.

use std::io::{BufRead as _, BufReader, Read as _};

use crate::{Console, Failure};

/// Asks before trust ends. Without a terminal, only `--yes` confirms.
pub(super) fn confirm(what: &str, is_confirmed: bool, console: &mut Console) -> Result<(), Failure> {
    if is_confirmed {
        return Ok(());
    }
    if !console.can_ask {
        return Err(Failure::usage(what).next("run it again with --yes"));
    }
    console.progress(&format!("{what}. Type yes to continue:"));
    let mut line = String::new();
    let read = BufReader::new((&mut console.stdin).take(64)).read_line(&mut line);
    if read.is_ok() && line.trim() == "yes" {
        return Ok(());
    }
    Err(Failure::usage("not confirmed; nothing was changed"))
}
