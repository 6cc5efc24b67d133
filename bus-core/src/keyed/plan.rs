//! Who is to have which partition after somebody has asked for it: as evenly as the counts of messages allow, with few moves.

use crate::limits::PARTITIONS;

const PARTS: usize = PARTITIONS as usize;

/// Moves partitions from the member with the most to the one with the least, as long as that evens them out. `homes` says which
/// member, below `loads.len()`, has each partition; one that nobody has is given to whoever has the least. `loads` is where the sums
/// are kept. Returns how many partitions have another home afterwards.
pub fn spread(weights: &[u64; PARTS], homes: &mut [Option<usize>; PARTS], loads: &mut [u64]) -> usize {
    if loads.is_empty() {
        return 0;
    }
    loads.fill(0);
    let before = *homes;
    for (home, weight) in homes.iter_mut().zip(weights) {
        *home = home.filter(|&home| home < loads.len());
        if let Some(home) = *home {
            loads[home] += weight;
        }
    }
    // Those that nobody has, the heaviest first.
    while let Some(partition) =
        (0..PARTS).filter(|&partition| homes[partition].is_none()).max_by_key(|&p| weights[p])
    {
        let home = lightest(loads);
        homes[partition] = Some(home);
        loads[home] += weights[partition];
    }
    // Each move makes the sum of squares smaller, so it ends; the bound is for weights that are nearly alike.
    for _ in 0..4 * PARTS {
        let to = lightest(loads);
        let from = (0..loads.len()).max_by_key(|&member| loads[member]).unwrap_or(to);
        let gap = loads[from] - loads[to];
        let best = (0..PARTS)
            .filter(|&partition| homes[partition] == Some(from))
            .filter(|&partition| weights[partition] > 0 && weights[partition] < gap)
            .min_by_key(|&partition| weights[partition].abs_diff(gap / 2));
        // A gap of a hundredth is even enough.
        let Some(partition) = best.filter(|_| gap > loads[from] / 100) else { break };
        homes[partition] = Some(to);
        loads[from] -= weights[partition];
        loads[to] += weights[partition];
    }
    before.iter().zip(homes.iter()).filter(|(before, now)| before != now).count()
}

fn lightest(loads: &[u64]) -> usize {
    (0..loads.len()).min_by_key(|&member| loads[member]).unwrap_or(0)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_hot_partition_gets_a_member_nearly_to_itself() {
        let mut weights = [1; PARTS];
        weights[7] = 300;
        let mut homes = [None; PARTS];
        (0..PARTS).for_each(|partition| homes[partition] = Some(partition % 4));
        let mut loads = [0; 4];
        let moved = spread(&weights, &mut homes, &mut loads);
        assert!(moved > 0 && moved < 80, "{moved}");
        assert_eq!(loads.iter().sum::<u64>(), 555);
        let most = loads.iter().max().unwrap();
        assert!(*most <= 301, "the hot one cannot be divided: {loads:?}");
        let rest: std::vec::Vec<_> = loads.iter().filter(|&load| load != most).collect();
        assert!(rest.iter().all(|load| (80..=88).contains(*load)), "{loads:?}");
    }

    #[test]
    fn what_is_even_stays_and_what_nobody_has_is_given_away() {
        let weights = [5; PARTS];
        let mut homes = [None; PARTS];
        let mut loads = [0; 3];
        assert_eq!(spread(&weights, &mut homes, &mut loads), PARTS);
        assert!(loads.iter().all(|load| (425..=430).contains(load)), "{loads:?}");
        assert_eq!(spread(&weights, &mut homes, &mut loads), 0);
        homes[0] = Some(9);
        assert_eq!(spread(&weights, &mut homes, &mut loads), 1, "no such member");
        assert_eq!(spread(&weights, &mut homes, &mut []), 0);
    }
}
