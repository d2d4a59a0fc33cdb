//! A line on the terminal that says how far it is; nothing where standard error is no terminal.

use model::ByteSize;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often the line is drawn anew.
const EVERY: Duration = Duration::from_millis(200);
/// How wide the bar is, in characters.
const BAR_CHARACTERS: u64 = 24;

/// How far something is.
pub(super) struct Progress {
    /// Where it is shown, if anywhere.
    terminal: Option<std::io::Stderr>,
    what: String,
    began: Instant,
    drawn: Option<Instant>,
}

impl Progress {
    /// Shows how far `what` is, on a terminal.
    pub(super) fn new(what: String) -> Self {
        let terminal = Some(std::io::stderr()).filter(IsTerminal::is_terminal);
        Self { terminal, what, began: Instant::now(), drawn: None }
    }

    /// So much of the whole is behind us (the whole is 0 where nobody knows it), and so many bytes were moved for it.
    pub(super) fn show(&mut self, done: u64, whole: u64, moved_bytes: u64) {
        let Some(terminal) = &mut self.terminal else { return };
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < EVERY) {
            return;
        }
        self.drawn = Some(Instant::now());
        let line = line(&self.what, done, whole, moved_bytes, self.began.elapsed());
        // A terminal that is gone is no reason to stop.
        let _ = write!(terminal, "\r\x1b[K{line}").and_then(|()| terminal.flush());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let (Some(terminal), Some(_)) = (&mut self.terminal, self.drawn) {
            let _ = write!(terminal, "\r\x1b[K").and_then(|()| terminal.flush());
        }
    }
}

fn line(what: &str, done: u64, whole: u64, moved_bytes: u64, elapsed: Duration) -> String {
    let rate = (u128::from(moved_bytes) * 1000 / elapsed.as_millis().max(1)) as u64;
    let figures = format!("{}  {}/s", ByteSize(moved_bytes), ByteSize(rate));
    if whole == 0 {
        return format!("{what}  {figures}");
    }
    let share = |of: u64| (u128::from(done.min(whole)) * u128::from(of) / u128::from(whole)) as u64;
    let full = share(BAR_CHARACTERS);
    let bar: String = (0..BAR_CHARACTERS).map(|place| if place < full { '█' } else { '░' }).collect();
    let left = match share(1000) {
        0 => String::new(),
        told => {
            let seconds = elapsed.as_secs() * (1000 - told) / told;
            format!("  {}:{:02} left", seconds / 60, seconds % 60)
        }
    };
    format!("{what}  {bar} {:>3}%  {figures}{left}", share(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_it_is_and_how_long_it_will_take() {
        let halfway = line("export", 1 << 30, 2 << 30, 512 << 20, Duration::from_secs(4));
        assert_eq!(halfway, "export  ████████████░░░░░░░░░░░░  50%  512 MiB  128 MiB/s  0:04 left");
        assert_eq!(line("import", 5, 0, 1 << 20, Duration::from_secs(1)), "import  1 MiB  1 MiB/s");
        assert!(line("import", 9, 3, u64::MAX, Duration::ZERO).contains("100%"));
    }
}
