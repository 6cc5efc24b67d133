//! A fixed share of a lane's messages, chosen by their numbers: everybody who takes the same share takes the same messages.

/// Bits of the share behind the point.
const SHARE_BITS: u32 = 32;

/// Which messages belong to a sample.
///
/// The n-th multiple of the share passes a whole number at the messages that are taken, as in Bresenham's line: they are spread as
/// evenly as can be, and of any run of `n` messages `share * n` are taken, less or more by one at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// The share times 2^32.
    share_q32: u64,
}

impl Sampling {
    /// A share of more than 0 and at most 1; `None` for others.
    pub fn new(share: f64) -> Option<Self> {
        let share_q32 = share * (1_u64 << SHARE_BITS) as f64;
        if !(share_q32 >= 1.0 && share <= 1.0) {
            return None;
        }
        // Rounded up, so that of 1,000 messages a tenth are 100 and not 99.
        let below = share_q32 as u64;
        Some(Self { share_q32: below + u64::from((below as f64) < share_q32) })
    }

    /// Does the message of this number belong to it?
    pub const fn takes(self, sequence: u64) -> bool {
        let fraction = sequence.wrapping_mul(self.share_q32) & ((1 << SHARE_BITS) - 1);
        fraction + self.share_q32 >= 1 << SHARE_BITS
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn any_run_has_its_share_within_one() {
        for share in [1.0, 0.5, 0.1, 1.0 / 3.0, 0.999, 0.0001] {
            let sampling = Sampling::new(share).unwrap();
            for from in [0_u64, 1, 12_345, 1 << 33, u64::MAX - 20_000] {
                let run = 20_000_u64;
                let taken = (0..run).filter(|&index| sampling.takes(from.wrapping_add(index))).count();
                let wanted = share * run as f64;
                assert!((taken as f64 - wanted).abs() <= 1.01, "{share} from {from}: {taken}");
            }
        }
    }

    #[test]
    fn shares_that_are_none_are_refused() {
        for share in [0.0, -0.1, 1.001, f64::NAN, f64::INFINITY, 1e-12] {
            assert_eq!(Sampling::new(share), None, "{share}");
        }
    }
}
