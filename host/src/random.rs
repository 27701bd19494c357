//! Random numbers that are a pure function of a seed and a place: the same bits on every machine and in every version.
//!
//! SplitMix64 (Steele, Lea, Flood 2014) is enough for orders of rows and starting weights, and short enough to stay the
//! same for good.

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Stream {
    state: u64,
}

impl Stream {
    /// The stream of a seed and a place (`"order"`, 3; `"init"`, 17): streams of different places are unrelated.
    pub fn new(seed: u64, place: &str, index: u64) -> Self {
        let mut stream = Self { state: seed };
        for byte in place.bytes() {
            stream.state = stream.bits().wrapping_add(u64::from(byte));
        }
        stream.state = stream.bits().wrapping_add(index);
        stream.state = stream.bits();
        stream
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// A number below `bound`, each as likely as any other (Lemire 2019). `bound` is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.bits()) * u128::from(bound);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// A number from [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Two numbers from the normal distribution with mean 0 and deviation 1 (Marsaglia's polar method).
    pub fn normals(&mut self) -> (f64, f64) {
        loop {
            let (x, y) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                let factor = (-2.0 * square.ln() / square).sqrt();
                return (x * factor, y * factor);
            }
        }
    }

    /// Puts `items` in a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_the_same_for_good() {
        let mut stream = Stream::new(7, "order", 3);
        let numbers: Vec<u64> = (0..3).map(|_| stream.bits()).collect();
        assert_eq!(numbers, Stream::new(7, "order", 3).take_three());
        assert_ne!(numbers, Stream::new(7, "order", 4).take_three());
        assert_ne!(numbers, Stream::new(7, "init", 3).take_three());
        assert_ne!(numbers, Stream::new(8, "order", 3).take_three());
    }

    #[test]
    fn a_shuffle_keeps_every_item_and_moves_most() {
        let mut items: Vec<u32> = (0..1000).collect();
        Stream::new(1, "order", 0).shuffle(&mut items);
        assert!(items.iter().enumerate().filter(|&(place, &item)| place as u32 == item).count() < 10);
        items.sort_unstable();
        assert_eq!(items, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn normals_have_mean_0_and_deviation_1() {
        let mut stream = Stream::new(3, "init", 0);
        let numbers: Vec<f64> = (0..20_000).flat_map(|_| <[f64; 2]>::from(stream.normals())).collect();
        let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
        let deviation = (numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / numbers.len() as f64).sqrt();
        assert!(mean.abs() < 0.02 && (deviation - 1.0).abs() < 0.02, "{mean} {deviation}");
    }

    impl Stream {
        fn take_three(mut self) -> Vec<u64> {
            (0..3).map(|_| self.bits()).collect()
        }
    }
}
