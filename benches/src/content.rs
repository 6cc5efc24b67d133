//! The content of every message: words that depend on the message's number, written in full and read in full.
//!
//! Word 0 is the identity (number, and producer where there are several), word 1 the stamp that the producer put in
//! (0 if none), and word `i` is `identity * ODD + stamp + i`. The reader adds up all words, as the reader of the floor's ring does, and
//! compares: a word that changed, and any number of words of another message, change the sum. Both directions are plain loops that the compiler
//! turns into wide instructions, so that the check costs about as much as reading the bytes.

/// An odd number whose multiples differ in many bits.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Bits of an identity that count the messages of one producer.
const NUMBER_BITS: u32 = 48;

/// Builds the identity of a message from its producer's number and its place in that producer's stream.
#[inline(always)]
#[must_use]
pub fn identity(producer: usize, number: u64) -> u64 {
    ((producer as u64) << NUMBER_BITS) | (number & ((1 << NUMBER_BITS) - 1))
}

/// Producer and number of an identity.
#[inline(always)]
#[must_use]
pub fn split(identity: u64) -> (usize, u64) {
    ((identity >> NUMBER_BITS) as usize, identity & ((1 << NUMBER_BITS) - 1))
}

/// Word `i` of a payload is this and `i`, but for the first two.
#[inline(always)]
fn base(identity: u64, stamp: u64) -> u64 {
    identity.wrapping_mul(ODD).wrapping_add(stamp)
}

/// Writes every word of a payload.
#[inline(always)]
pub fn fill(words: &mut [u64], identity: u64, stamp: u64) {
    let base = base(identity, stamp);
    for (index, word) in words.iter_mut().enumerate() {
        *word = base.wrapping_add(index as u64);
    }
    if let Some(first) = words.first_mut() {
        *first = identity;
    }
    if let Some(second) = words.get_mut(1) {
        *second = stamp;
    }
}

/// [`fill`] for a payload that is memory of the bus, in the form in which words travel.
#[inline(always)]
pub fn fill_bytes(bytes: &mut [u8], identity: u64, stamp: u64) {
    let base = base(identity, stamp);
    let (words, _) = bytes.as_chunks_mut::<8>();
    for (index, word) in words.iter_mut().enumerate() {
        *word = base.wrapping_add(index as u64).to_le_bytes();
    }
    if let Some(first) = words.first_mut() {
        *first = identity.to_le_bytes();
    }
    if let Some(second) = words.get_mut(1) {
        *second = stamp.to_le_bytes();
    }
}

/// Reads every word of a payload: its identity and stamp, or `None` if their sum is not what the first two say.
/// Takes the words through `at` so that archived words need no copy.
#[inline(always)]
pub fn check(count: usize, at: impl Fn(usize) -> u64) -> Option<(u64, u64)> {
    if count < 2 {
        return None;
    }
    let (identity, stamp) = (at(0), at(1));
    let sum = (2..count).fold(0_u64, |sum, index| sum.wrapping_add(at(index)));
    let numbers = (count * (count - 1) / 2 - 1) as u64;
    let expected = base(identity, stamp).wrapping_mul(count as u64 - 2).wrapping_add(numbers);
    (sum == expected).then_some((identity, stamp))
}

/// Follows the numbers of one producer's stream and counts what is missing or late.
#[derive(Debug, Clone, Copy, Default)]
pub struct Order {
    next: u64,
    /// Messages that were skipped over.
    pub lost: u64,
    /// Messages whose number was lower than one seen before.
    pub out_of_order: u64,
}

impl Order {
    /// Expects this number next.
    #[must_use]
    pub fn starting_at(next: u64) -> Self {
        Self { next, ..Self::default() }
    }

    /// The number that is expected next.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Notes a number that was received where every number must come, in order.
    #[inline(always)]
    pub fn note(&mut self, number: u64) {
        if number == self.next {
            self.next += 1;
        } else {
            self.surprise(number);
        }
    }

    /// Notes a number where others may go to other readers: only the order is judged.
    #[inline(always)]
    pub fn note_sparse(&mut self, number: u64) {
        if number < self.next {
            self.out_of_order += 1;
        } else {
            self.next = number + 1;
        }
    }

    #[cold]
    fn surprise(&mut self, number: u64) {
        if number > self.next {
            self.lost += number - self.next;
            self.next = number + 1;
        } else {
            self.out_of_order += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(words: &[u64]) -> Option<(u64, u64)> {
        check(words.len(), |index| words[index])
    }

    #[test]
    fn what_was_filled_is_recognised() {
        for count in [2, 8, 128, 8_192] {
            let mut words = vec![0; count];
            for number in [0, 1, 77, 1 << 40] {
                fill(&mut words, identity(3, number), 99);
                assert_eq!(checked(&words), Some((identity(3, number), 99)));
                assert_eq!(split(words[0]), (3, number));
            }
        }
    }

    #[test]
    fn bytes_are_filled_as_words_are() {
        let (mut words, mut bytes) = ([0_u64; 128], [0_u8; 1_024]);
        fill(&mut words, identity(3, 77), 99);
        fill_bytes(&mut bytes, identity(3, 77), 99);
        let of_bytes: Vec<u64> =
            bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        assert_eq!(of_bytes, words);
    }

    #[test]
    fn any_changed_word_is_noticed() {
        let mut words = [0; 8];
        for index in 2..8 {
            for bit in 0..64 {
                fill(&mut words, 12_345, 0);
                words[index] ^= 1 << bit;
                assert_eq!(checked(&words), None, "word {index} bit {bit}");
            }
        }
        fill(&mut words, 12_345, 0);
        words[0] += 1;
        assert_eq!(checked(&words), None);
        fill(&mut words, 12_345, 0);
        words[1] = 1;
        assert_eq!(checked(&words), None);
    }

    #[test]
    fn a_mix_of_two_messages_is_noticed() {
        let (mut older, mut newer) = ([0; 8], [0; 8]);
        fill(&mut older, 10, 0);
        fill(&mut newer, 11, 0);
        for cut in 1..8 {
            let mut mixed = newer;
            mixed[cut..].copy_from_slice(&older[cut..]);
            assert_eq!(checked(&mixed), None, "cut at {cut}");
        }
    }

    #[test]
    fn too_short_a_payload_is_not_content() {
        assert_eq!(checked(&[]), None);
        assert_eq!(checked(&[1]), None);
    }

    #[test]
    fn gaps_and_steps_back_are_told_apart() {
        let mut order = Order::default();
        for number in [0, 1, 4, 5, 3, 6] {
            order.note(number);
        }
        assert_eq!((order.lost, order.out_of_order), (2, 1));
        let mut order = Order::default();
        for number in [0, 3, 9, 8, 10] {
            order.note_sparse(number);
        }
        assert_eq!((order.lost, order.out_of_order), (0, 1));
    }
}
