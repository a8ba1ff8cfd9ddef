//! What several rounds say together.

/// The middle value, of an even number the mean of the two in the middle; 0 of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match (values.len() % 2, values.get(half), half.checked_sub(1).and_then(|below| values.get(below))) {
        (1, Some(middle), _) => *middle,
        (0, Some(above), Some(below)) => f64::midpoint(*above, *below),
        _ => 0.0,
    }
}

/// The value below which `share` of them lie (0.5: the median, 0.99), the nearest that occurred; 0 of none. They must be sorted.
pub(crate) fn quantile(sorted: &[u64], share: f64) -> u64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!((quantile(&hundred, 0.5), quantile(&hundred, 0.99), quantile(&hundred, 1.0)), (50, 99, 100));
        assert_eq!((quantile(&[], 0.5), quantile(&[7], 0.99)), (0, 7));
    }

    proptest! {
        #[test]
        fn as_many_lie_below_as_was_asked(mut values in proptest::collection::vec(any::<u64>(), 1..50), share in 0.0..=1.0) {
            values.sort_unstable();
            let value = quantile(&values, share);
            let below = values.iter().filter(|other| **other <= value).count();
            prop_assert!(values.contains(&value));
            prop_assert!(below as f64 >= share * values.len() as f64 - 1e-9);
        }
    }
}
