//! Random numbers that are a pure function of a seed and a purpose: the same bits on every machine and in every version.
//!
//! SplitMix64 (Steele, Lea, Flood 2014): good enough for orders of rows and starting weights, and short enough to stay
//! the same in all versions.

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Stream {
    state: u64,
}

impl Stream {
    /// The stream of a seed, a purpose and an index (`"order"`, 3; `"init"`, 17). Different streams are unrelated.
    pub fn new(seed: u64, purpose: &str, index: u64) -> Self {
        let mut stream = Self { state: seed };
        for byte in purpose.bytes() {
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

    /// Two numbers from the normal distribution with mean 0 and deviation 1 (Marsaglia's polar method). The logarithm is
    /// computed in software, and a square root is exact everywhere: the bits are the same on every machine.
    pub fn normals(&mut self) -> (f64, f64) {
        loop {
            let (x, y) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                let factor = (-2.0 * libm::log(square) / square).sqrt();
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

    // These values may never change: the order of rows, the held-out rows and the starting weights depend on them.
    #[test]
    fn streams_are_the_same_for_good() {
        let mut stream = Stream::new(7, "order", 3);
        let bits: Vec<u64> = (0..3).map(|_| stream.bits()).collect();
        assert_eq!(bits, [0xccf0_106d_819b_378e, 0x39bd_4510_b7d6_0e3c, 0x684e_b439_87d7_a8a4]);
        let first = |seed, place, index| Stream::new(seed, place, index).bits();
        assert_eq!(first(7, "order", 4), 0x88aa_70e7_1d0c_a442);
        assert_eq!(first(7, "init", 3), 0xb2d4_df5b_2ee0_65b2);
        assert_eq!(first(8, "order", 3), 0xf324_53a8_6215_6135);
    }

    #[test]
    fn a_shuffle_is_the_same_for_good() {
        let mut items: Vec<u32> = (0..8).collect();
        Stream::new(7, "order", 3).shuffle(&mut items);
        assert_eq!(items, [5, 7, 4, 0, 3, 2, 1, 6]);
    }

    #[test]
    fn normals_are_the_same_for_good_and_on_every_machine() {
        let mut stream = Stream::new(7, "init", 0);
        let bits: Vec<u64> = (0..2).flat_map(|_| <[f64; 2]>::from(stream.normals())).map(f64::to_bits).collect();
        assert_eq!(bits, [0xbfd2_ddae_1d36_a3f2, 0x3ff3_c20e_0bc3_34b5, 0x3fc7_65b7_e938_b370, 0xbff9_52aa_3a2c_3c93]);
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
}
