//! What happened, as one number: two runs of a seed are the same run exactly when their traces are.

/// The trace of a run.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    events: u64,
    printed: bool,
}

impl Trace {
    /// An empty trace; with `printed`, every event is a line on standard error too.
    #[must_use]
    pub fn new(printed: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, events: 0, printed }
    }

    /// Something happened, at `nanos`; `numbers` tell it apart.
    pub fn note(&mut self, nanos: u64, what: &'static str, numbers: [u64; 3]) {
        self.events += 1;
        if self.printed {
            let [a, b, c] = numbers;
            eprintln!("{:>12} {what} {a} {b} {c}", nanos / 1000);
        }
        self.mix(nanos);
        what.bytes().for_each(|byte| self.mix(u64::from(byte)));
        numbers.into_iter().for_each(|number| self.mix(number));
    }

    /// The same, in words that are made only if somebody reads them.
    pub fn tell(&mut self, nanos: u64, words: impl FnOnce() -> String) {
        if self.printed {
            eprintln!("{:>12} {}", nanos / 1000, words());
        }
    }

    fn mix(&mut self, value: u64) {
        self.hash = (self.hash.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// The number.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many things happened.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }
}
