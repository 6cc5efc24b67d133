//! Small statistics over the values of slices: medians, quartiles, paired ratios, bootstrap intervals.
//!
//! A slice gives one value. Its distribution is rarely normal (the machine has modes), hence medians and quartiles
//! everywhere and means nowhere.

use serde::{Deserialize, Serialize};

/// How many resamples the bootstrap draws: enough that the ends of a 95 % interval are stable to about a percent of it.
const BOOTSTRAP_RESAMPLES: usize = 2_000;

/// Median, quartiles and extremes of a set of values.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Spread {
    /// The value in the middle.
    pub median: f64,
    /// A quarter of the values lie below.
    pub q1: f64,
    /// A quarter of the values lie above.
    pub q3: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Summarises the values; `None` if there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        Some(Self {
            median: quantile(&sorted, 0.5)?,
            q1: quantile(&sorted, 0.25)?,
            q3: quantile(&sorted, 0.75)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
        })
    }

    /// Distance of the quartiles as a share of the median; 0 when the median is 0.
    #[must_use]
    pub fn relative_width(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.q3 - self.q1) / self.median }
    }
}

/// A 95 % interval for a median.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The median, or `None` of nothing. Values that are not numbers are ignored.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(&sorted(values), 0.5)
}

/// The quantile `q` in [0, 1] of sorted values, interpolated between neighbours.
#[must_use]
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = q.clamp(0.0, 1.0) * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    let share = position - below as f64;
    Some(sorted[below] + (sorted[above] - sorted[below]) * share)
}

/// The ratio of each value to its partner, where the partner is a positive number.
#[must_use]
pub fn paired_ratios(values: &[f64], partners: &[f64]) -> Vec<f64> {
    values
        .iter()
        .zip(partners)
        .filter(|(value, partner)| value.is_finite() && partner.is_finite() && **partner > 0.0)
        .map(|(value, partner)| value / partner)
        .collect()
}

/// Bootstrap 95 % interval of the median. The draws are the same in every run, so equal input gives equal output.
/// `None` for fewer than three values, which say nothing about their spread.
#[must_use]
pub fn bootstrap_median(values: &[f64]) -> Option<Interval> {
    let values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    if values.len() < 3 {
        return None;
    }
    let mut random = SplitMix(0x5bd1_e995_9d1b_58a3);
    let mut draw = vec![0.0; values.len()];
    let mut medians = Vec::with_capacity(BOOTSTRAP_RESAMPLES);
    for _ in 0..BOOTSTRAP_RESAMPLES {
        for value in &mut draw {
            *value = values[random.below(values.len())];
        }
        draw.sort_unstable_by(f64::total_cmp);
        medians.extend(quantile(&draw, 0.5));
    }
    medians.sort_unstable_by(f64::total_cmp);
    Some(Interval { low: quantile(&medians, 0.025)?, high: quantile(&medians, 0.975)? })
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

/// The generator by Steele, Lea and Flood (2014): tiny, and good enough to draw with replacement.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[f64::NAN, 7.0]), Some(7.0));
    }

    #[test]
    fn quartiles_lie_between_the_extremes() {
        let spread = Spread::of(&[5.0, 1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!((spread.min, spread.q1, spread.median, spread.q3, spread.max), (1.0, 2.0, 3.0, 4.0, 5.0));
        assert!((spread.relative_width() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn ratios_need_a_positive_partner() {
        assert_eq!(paired_ratios(&[2.0, 3.0, 4.0], &[1.0, 0.0, 8.0]), vec![2.0, 0.5]);
    }

    #[test]
    fn the_interval_holds_the_median_and_narrows_with_agreement() {
        let wide = bootstrap_median(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]).unwrap();
        assert!(wide.low <= 4.0 && wide.high >= 4.0 && wide.low < wide.high);
        let narrow = bootstrap_median(&[4.0; 7]).unwrap();
        assert_eq!((narrow.low, narrow.high), (4.0, 4.0));
        assert_eq!(bootstrap_median(&[1.0, 2.0]), None);
        assert_eq!(wide, bootstrap_median(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]).unwrap());
    }
}
