//! The word that somebody meant.

/// The word of `known` nearest to `typed`, if one is near enough to be a slip, or was begun and not ended.
pub(super) fn nearest<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    if typed.len() > 2
        && let Some(word) = known.iter().find(|word| word.starts_with(typed))
    {
        return Some(word);
    }
    let typed: Vec<char> = typed.chars().take(LONGEST + 1).collect();
    if typed.len() > LONGEST {
        return None;
    }
    let (far, word) = known.iter().map(|word| (distance(&typed, word), *word)).min_by_key(|(far, _)| *far)?;
    // A third of the letters wrong is another word; two wrong letters are a slip in all but the shortest.
    let near_enough = far <= (typed.len().max(word.len()) / 3).clamp(1, 3);
    near_enough.then_some(word)
}

/// Longer than every word we know and a slip added; bounds the work.
const LONGEST: usize = 32;

/// How many insertions, deletions, replacements and swaps of neighbours turn one word into the other
/// (optimal string alignment). Case does not count.
fn distance(typed: &[char], word: &str) -> usize {
    let word: Vec<char> = word.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=word.len()).collect();
    for (i, a) in typed.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in word.iter().enumerate() {
            let cost = usize::from(!a.eq_ignore_ascii_case(b));
            let mut best = (last[j] + cost).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == word[j - 1] && typed[i - 1] == *b {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEYS: &[&str] = &["name", "mode", "addresses", "mtu", "private-key-file", "allowed-ips"];

    #[test]
    fn slips_find_their_word() {
        for (typed, meant) in [
            ("adresses", "addresses"),
            ("address", "addresses"),
            ("allowed_ips", "allowed-ips"),
            ("AllowedIPs", "allowed-ips"),
            ("nmae", "name"),
            ("mut", "mtu"),
            ("private-key", "private-key-file"),
            ("MTU", "mtu"),
        ] {
            assert_eq!(nearest(typed, KEYS), Some(meant), "{typed}");
        }
        assert_eq!(nearest("colour", KEYS), None);
        assert_eq!(nearest("", KEYS), None);
        assert_eq!(nearest("x", &[]), None);
    }

    proptest! {
        #[test]
        fn distance_is_a_bounded_symmetric_measure(a in "[a-c]{0,8}", b in "[a-c]{0,8}") {
            let letters = |text: &str| text.chars().collect::<Vec<_>>();
            let far = distance(&letters(&a), &b);
            prop_assert_eq!(far, distance(&letters(&b), &a));
            prop_assert!(far <= a.len().max(b.len()));
            prop_assert!(far >= a.len().abs_diff(b.len()));
            prop_assert_eq!(far == 0, a == b);
        }

        #[test]
        fn any_text_is_answered(typed in ".*") {
            nearest(&typed, KEYS);
        }
    }
}
