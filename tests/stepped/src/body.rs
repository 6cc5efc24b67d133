//! Payloads that say which message they are, in every word.

/// Odd, so that multiplying by it loses nothing.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Who published a message: the upper bits of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// A process that had finished and left before anything was stepped.
    Setup = 0,
    /// The process that is stepped, or one that had died before it.
    Child = 1,
    /// Those who must not suffer.
    Survivor = 2,
}

impl Stream {
    /// How many there are.
    pub const COUNT: usize = 3;

    /// Number of its message `count`.
    pub fn number(self, count: u64) -> u64 {
        (self as u64) << 40 | count
    }
}

/// Stream and count of a message's number.
pub fn parts(number: u64) -> (usize, u64) {
    ((number >> 40) as usize, number & ((1 << 40) - 1))
}

/// The words of message `number`.
pub fn words(number: u64) -> impl Iterator<Item = u64> {
    let first = number.wrapping_mul(SPREAD);
    (0..).map(move |index| first.wrapping_add(index))
}

/// Message `number` in so many bytes, a multiple of eight.
pub fn body(number: u64, len_bytes: usize) -> Vec<u8> {
    words(number).take(len_bytes / 8).flat_map(u64::to_le_bytes).collect()
}

/// The number that a payload was made from; `None` if not all of it is that message's.
pub fn number_of(payload: &[u8]) -> Option<u64> {
    let (first, _) = payload.split_first_chunk::<8>()?;
    // Newton's iteration for the inverse of an odd number; each round doubles the correct bits.
    let better = |x: u64, _| x.wrapping_mul(2_u64.wrapping_sub(SPREAD.wrapping_mul(x)));
    let number = u64::from_le_bytes(*first).wrapping_mul((0..6).fold(1, better));
    (body(number, payload.len()) == payload).then_some(number)
}

/// A payload with a type, for what only typed publishers can do. Archived, it is message `number` in 64 bytes.
#[derive(rkyv::Archive, rkyv::Serialize, Clone, Copy, Debug)]
pub struct Words {
    /// Every one depends on the number.
    pub words: [u64; 8],
}
bus_shm::message!(Words, version 1, { words });

impl Words {
    /// The message of that number.
    pub fn numbered(number: u64) -> Self {
        let mut words = words(number);
        Self { words: std::array::from_fn(|_| words.next().unwrap_or(0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_tells_its_number_and_a_torn_one_does_not() {
        for number in [Stream::Setup.number(0), Stream::Child.number(7), Stream::Survivor.number(1 << 39)] {
            for len in [8, 64, 4_000] {
                let mut payload = body(number, len);
                assert_eq!(number_of(&payload), Some(number));
                if len > 8 {
                    payload[len - 1] ^= 1;
                    assert_eq!(number_of(&payload), None);
                }
            }
            let typed: Vec<u8> =
                Words::numbered(number).words.iter().flat_map(|word| word.to_le_bytes()).collect();
            assert_eq!(typed, body(number, 64));
        }
        assert_eq!(number_of(&[1, 2, 3]), None);
    }
}
