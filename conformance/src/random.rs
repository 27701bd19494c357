//! Numbers of a fixed seed for cases, and those that `random_uniform` defines.

/// SplitMix64 (Steele et al. 2014), so that every run has the same cases.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number from [least, most).
    pub fn real(&mut self, least: f64, most: f64) -> f64 {
        least + (most - least) * (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A whole number from least..most.
    pub fn whole(&mut self, least: i64, most: i64) -> i64 {
        least + (self.bits() % (most - least).max(1) as u64) as i64
    }

    /// 0..count in some order.
    pub fn order(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<_> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, self.whole(0, last as i64 + 1) as usize);
        }
        order
    }
}

/// Threefry-2x32 with 20 rounds (Salmon et al. 2011).
fn threefry(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    let keys = [key[0], key[1], key[0] ^ key[1] ^ 0x1bd1_1bda];
    let [mut x, mut y] = [counter[0].wrapping_add(keys[0]), counter[1].wrapping_add(keys[1])];
    for group in 0..5 {
        let rotations = if group % 2 == 0 { [13, 15, 26, 6] } else { [17, 29, 16, 24] };
        for rotation in rotations {
            x = x.wrapping_add(y);
            y = y.rotate_left(rotation) ^ x;
        }
        x = x.wrapping_add(keys[(group + 1) % 3]);
        y = y.wrapping_add(keys[(group + 2) % 3]).wrapping_add(group as u32 + 1);
    }
    [x, y]
}

/// The numbers of `random_uniform`, before the cast.
pub fn uniform(key: i64, count: usize) -> Vec<f64> {
    let key = key.cast_unsigned();
    let key = [(key >> 32) as u32, key as u32];
    let half = count.div_ceil(2);
    let mut numbers = vec![0.0; 2 * half];
    for i in 0..half {
        let second = if half + i < count { half + i } else { 0 };
        let bits = threefry(key, [i as u32, second as u32]);
        for (place, bits) in [i, half + i].into_iter().zip(bits) {
            numbers[place] = (f64::from(bits as f32) / 4_294_967_296.0).min(1.0 - 1.0 / 16_777_216.0);
        }
    }
    numbers.truncate(count);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threefry_gives_the_published_numbers() {
        // The known answers of Random123, which the authors publish with the paper.
        assert_eq!(threefry([0; 2], [0; 2]), [0x6b20_0159, 0x99ba_4efe]);
        assert_eq!(threefry([u32::MAX; 2], [u32::MAX; 2]), [0x1cb9_96fc, 0xbb00_2be7]);
        assert_eq!(threefry([0x1319_8a2e, 0x0370_7344], [0x243f_6a88, 0x85a3_08d3]), [0xc492_3a9c, 0x483d_f7a0]);
    }
}
