//! Which counters of a session were opened already: each is delivered once, in whatever order they arrive.
//!
//! A ring of bits, cleared word by word as the newest counter moves on (RFC 6479). One word is always in the middle of
//! being filled, so that the window is a word shorter than the ring.

/// Words of the ring.
const WORDS: usize = 256;

/// How far a counter may lie behind the newest one and still be told from a replay.
pub const WINDOW: u64 = (WORDS as u64 - 1) * 64;

/// What [`Window::mark`] says of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Never seen, and above all others.
    Newest,
    /// Never seen, overtaken by others.
    Late,
    /// Seen, or too old to tell.
    Replay,
}

/// The counters of one session that were opened.
pub struct Window {
    /// The newest counter plus one; 0 while there is none.
    next: u64,
    bits: Box<[u64; WORDS]>,
}

impl Default for Window {
    fn default() -> Self {
        Self { next: 0, bits: Box::new([0; WORDS]) }
    }
}

impl Window {
    /// Whether a counter could still be fresh. Says nothing about the datagram that names it, which is to be opened first.
    #[inline]
    #[must_use]
    pub fn permits(&self, counter: u64) -> bool {
        counter >= self.next || (self.next - counter <= WINDOW && !self.has(counter))
    }

    /// Marks the counter of a datagram that was opened. Only a fresh one may be delivered.
    #[inline]
    pub fn mark(&mut self, counter: u64) -> Mark {
        if !self.permits(counter) {
            return Mark::Replay;
        }
        let newest = counter >= self.next;
        if newest {
            self.advance(counter);
        }
        if let Some(word) = self.bits.get_mut(Self::place(counter)) {
            *word |= 1 << (counter % 64);
        }
        if newest { Mark::Newest } else { Mark::Late }
    }

    /// Clears the words between the newest counter and `counter`, which is beyond it.
    fn advance(&mut self, counter: u64) {
        let first = if self.next == 0 { 0 } else { (self.next - 1) / 64 + 1 };
        let last = counter / 64;
        if last.saturating_sub(first) >= WORDS as u64 {
            self.bits.fill(0);
        } else {
            for word in first..=last {
                if let Some(bits) = self.bits.get_mut(word as usize % WORDS) {
                    *bits = 0;
                }
            }
        }
        self.next = counter.saturating_add(1);
    }

    #[inline]
    fn has(&self, counter: u64) -> bool {
        self.bits.get(Self::place(counter)).is_none_or(|word| word & (1 << (counter % 64)) != 0)
    }

    #[inline]
    fn place(counter: u64) -> usize {
        (counter / 64) as usize % WORDS
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_counter_passes_once() {
        let mut window = Window::default();
        for counter in [0, 1, 9, 8, 7, 6, 5, 4, 3, 2, 200, 100] {
            assert!(window.permits(counter));
            assert_ne!(window.mark(counter), Mark::Replay, "{counter}");
            assert!(!window.permits(counter));
            assert_eq!(window.mark(counter), Mark::Replay, "{counter}");
        }
        assert_eq!(window.mark(201), Mark::Newest);
        assert_eq!(window.mark(150), Mark::Late);
    }

    /// The shape of the kernel's own list (drivers/net/wireguard/selftest/counter.c): edges of the window, both sides.
    #[test]
    fn the_edges_of_the_window() {
        for top in [WINDOW, WINDOW + 1, 2 * WINDOW, 1 << 32, (1 << 60) + 17, u64::MAX - (1 << 13)] {
            let mut window = Window::default();
            assert_eq!(window.mark(top), Mark::Newest);
            assert_eq!(window.mark(top - WINDOW + 1), Mark::Late);
            assert_eq!(window.mark(top - WINDOW + 1), Mark::Replay);
            assert_eq!(window.mark(top - WINDOW), Mark::Replay, "one too old");
            assert_eq!(window.mark(top - 1), Mark::Late);
            assert_eq!(window.mark(top + 1), Mark::Newest);
            assert_eq!(window.mark(0), Mark::Replay);
        }
        // The very last number neither wraps nor panics.
        let mut window = Window::default();
        assert_eq!(window.mark(u64::MAX), Mark::Newest);
        assert_eq!(window.mark(0), Mark::Replay);
    }

    #[test]
    fn a_long_leap_forgets_everything_and_nothing_passes_twice() {
        let mut window = Window::default();
        let mut seen = HashSet::new();
        for base in [0, 63, 64, 65, WINDOW * 3, WINDOW * 3 + 64 * 256, 1 << 40] {
            for offset in (0..200).rev() {
                let fresh = window.mark(base + offset) != Mark::Replay;
                assert!(!fresh || seen.insert(base + offset));
            }
        }
    }

    #[test]
    fn the_window_holds_what_is_promised() {
        const { assert!(WINDOW >= 8192) };
        let mut window = Window::default();
        (0..WINDOW).rev().for_each(|counter| assert_ne!(window.mark(counter), Mark::Replay));
        (0..WINDOW).for_each(|counter| assert_eq!(window.mark(counter), Mark::Replay));
    }

    proptest! {
        /// Against a set that forgets nothing.
        #[test]
        fn it_agrees_with_a_set(start in prop_oneof![Just(0u64), Just(1 << 32), Just(u64::MAX - 200_000)],
                                steps in prop::collection::vec((0u64..400, 0u64..20_000), 1..400)) {
            let mut window = Window::default();
            let (mut seen, mut top) = (HashSet::new(), start);
            for (forward, back) in steps {
                top += forward;
                for counter in [top, top.saturating_sub(back)] {
                    let newest = seen.iter().max().copied();
                    let recent = newest.is_none_or(|newest| counter > newest || newest - counter < WINDOW);
                    let fresh = recent && !seen.contains(&counter);
                    prop_assert_eq!(window.permits(counter), fresh);
                    prop_assert_eq!(window.mark(counter) != Mark::Replay, fresh);
                    seen.insert(counter);
                }
            }
        }
    }
}
