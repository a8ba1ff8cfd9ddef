//! Text from other hosts, made fit to be shown. A name may hold what moves a terminal's cursor, turns the direction of writing, or is
//! no XML; none of that reaches a drawing.

use super::observation::{Fact, Place, Trace, Unseen};

/// Characters of a name that are shown.
const LONGEST: usize = 200;

/// `text` with a mark for each character that would not be shown as itself.
pub(super) fn text(text: &str) -> String {
    let shown = |character: char| if hidden(character) { '\u{fffd}' } else { character };
    text.chars().take(LONGEST).map(shown).collect()
}

/// Control characters, and those without a width of their own that change how others are read.
fn hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(character, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}' | '\u{e0000}'..='\u{e007f}')
}

/// `trace` with all its text made fit to be shown.
pub(super) fn clean(trace: &Trace) -> Trace {
    let mut trace = trace.clone();
    let each = |texts: &mut [&mut String]| {
        for shown in texts {
            **shown = text(shown);
        }
    };
    each(&mut [&mut trace.from]);
    for observation in &mut trace.observations {
        each(&mut [&mut observation.host]);
        if let Place::Device { name, .. } = &mut observation.place {
            each(&mut [name]);
        }
    }
    for report in &mut trace.reports {
        each(&mut [&mut report.host]);
        if let Some(Unseen::Silent { problem } | Unseen::Unasked { transport: problem }) = &mut report.unseen {
            each(&mut [problem]);
        }
        report.counters = std::mem::take(&mut report.counters).into_iter().map(|(name, n)| (text(&name), n)).collect();
        for fact in &mut report.facts {
            match fact {
                Fact::RouteVia { device, .. } | Fact::RpFilter { device, .. } | Fact::Mtu { device, .. } => {
                    each(&mut [device]);
                }
                Fact::PathMtu { peer, .. } | Fact::Refused { peer } => each(&mut [peer]),
                Fact::PeerDown { peer, problem } => each(&mut [peer, problem]),
                Fact::Firewall { table, chain, .. } => each(&mut [table, chain]),
                Fact::NoRoute { .. } | Fact::Forwarding { .. } | Fact::Icmp { .. } => {}
            }
        }
    }
    trace
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_not_be_shown_as_itself_is_marked() {
        assert_eq!(text("berlin-1.example"), "berlin-1.example");
        assert_eq!(text("a\u{1b}[2Jb\nc\u{202e}d\0"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d\u{fffd}");
        assert_eq!(text("köln · 東京"), "köln · 東京");
        assert_eq!(text(&"x".repeat(5000)).len(), LONGEST);
    }
}
