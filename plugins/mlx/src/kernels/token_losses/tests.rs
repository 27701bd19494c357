//! Tiles against the formula in f64, and against the loss of whole rows.

use super::super::cross_entropy;
use super::*;
use crate::kernels::tests::random;
use proptest::prelude::*;

/// Logits of some rows, and how they are cut.
struct Case {
    products: Vec<f32>,
    bias: Option<Vec<f32>>,
    scale: f32,
    soft_cap: Option<f32>,
    targets: Vec<i32>,
    cotangents: Vec<f32>,
    width: usize,
}

impl Case {
    fn new(rows: usize, width: usize, seed: u32) -> Self {
        let mut random = random(seed);
        let mut draw = |n: usize, size: f32| -> Vec<f32> { (0..n).map(|_| random() * size).collect() };
        // Some rows are not trained, and one target lies in the last column.
        let target = |row: usize| match row % 5 {
            4 => -1,
            3 => width as i32 - 1,
            _ => (row * 7 % width) as i32,
        };
        Self {
            products: draw(rows * width, 6.0),
            bias: None,
            scale: 1.0,
            soft_cap: None,
            targets: (0..rows).map(target).collect(),
            cotangents: draw(rows, 1.0),
            width,
        }
    }

    /// Losses, log-sum-exps and gradients, of so many columns at a time.
    fn kernel(&self, columns: usize) -> [Vec<f32>; 3] {
        let rows = self.targets.len();
        let (mut max, mut sum, mut at_target) = (vec![7.0; rows], vec![7.0; rows], vec![7.0; rows]);
        let tiles = || (0..self.width).step_by(columns).map(|first| self.tile(first, columns));
        for tile in tiles() {
            let sums = Sums { max: &mut max, sum: &mut sum, at_target: &mut at_target };
            fold(&mut self.part(tile), tile, &self.targets, sums);
        }
        finish(&self.targets, &mut Sums { max: &mut max, sum: &mut sum, at_target: &mut at_target });
        let mut gradient_of_all = vec![f32::NAN; self.products.len()];
        for tile in tiles() {
            let mut part = self.part(tile);
            let Self { targets, cotangents, width, .. } = self;
            gradient(&mut part, tile, Cotangents { targets, lse: &max, cotangents, vocabulary: *width }, &mut []);
            for (to, from) in gradient_of_all.chunks_mut(*width).zip(part.chunks(tile.width)) {
                to[tile.first..][..tile.width].copy_from_slice(from);
            }
        }
        [at_target, max, gradient_of_all]
    }

    fn tile(&self, first: usize, columns: usize) -> Tile<'_> {
        let width = columns.min(self.width - first);
        let bias = self.bias.as_ref().map(|bias| &bias[first..][..width]);
        Tile { first, width, bias, scale: self.scale, soft_cap: self.soft_cap }
    }

    /// The products of a tile.
    fn part(&self, tile: Tile<'_>) -> Vec<f32> {
        self.products.chunks(self.width).flat_map(|row| row[tile.first..][..tile.width].to_vec()).collect()
    }

    /// Losses and gradients in f64.
    fn reference(&self) -> [Vec<f64>; 2] {
        let (mut losses, mut gradients) = (Vec::new(), Vec::new());
        for (row, (products, &target)) in self.products.chunks(self.width).zip(&self.targets).enumerate() {
            let bias = |place: usize| self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[place]));
            let raw = |place: usize| (f64::from(products[place]) + bias(place)) * f64::from(self.scale);
            let cap = self.soft_cap.map(f64::from);
            let logit = |place: usize| cap.map_or(raw(place), |cap| cap * (raw(place) / cap).tanh());
            let lse = (0..self.width).map(|place| logit(place).exp()).sum::<f64>().ln();
            let Ok(target) = usize::try_from(target) else {
                losses.push(0.0);
                gradients.extend(vec![0.0; self.width]);
                continue;
            };
            losses.push(lse - logit(target));
            for place in 0..self.width {
                let slope = cap.map_or(1.0, |cap| 1.0 - (raw(place) / cap).tanh().powi(2));
                let difference = (logit(place) - lse).exp() - f64::from(u8::from(place == target));
                gradients.push(f64::from(self.cotangents[row] * self.scale) * difference * slope);
            }
        }
        [losses, gradients]
    }
}

fn near(got: &[f32], want: &[f64], tolerance: f64) -> bool {
    got.iter().zip(want).all(|(&got, want)| (f64::from(got) - want).abs() <= tolerance)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn losses_and_gradients_of_tiles_are_those_of_the_formula(
        rows in 1usize..20, width in 1usize..150, columns in 1usize..160, has_bias in any::<bool>(),
        scale in prop::sample::select(vec![1.0f32, 0.25]), soft_cap in prop::option::of(1.0f32..20.0), seed in any::<u32>(),
    ) {
        let bias = has_bias.then(|| Case::new(1, width, seed ^ 1).products);
        let case = Case { bias, scale, soft_cap, ..Case::new(rows, width, seed) };
        let ([losses, _, gradients], [want_losses, want_gradients]) = (case.kernel(columns), case.reference());
        prop_assert!(near(&losses, &want_losses, 1e-5), "{losses:?} is not {want_losses:?}");
        prop_assert!(near(&gradients, &want_gradients, 1e-5), "{gradients:?} is not {want_gradients:?}");
    }
}

#[test]
fn one_tile_has_the_bits_of_the_loss_of_whole_rows() {
    let case = Case::new(37, 333, 5);
    let (mut losses, mut lse) = (vec![0.0; 37], vec![0.0; 37]);
    let mut gradient = vec![0.0; 37 * 333];
    cross_entropy::forward(&case.products, &case.targets, &mut losses, &mut lse);
    cross_entropy::backward(&case.products, &case.targets, &lse, &case.cotangents, &mut gradient);
    assert_eq!(case.kernel(333), [losses, lse, gradient]);
}

#[test]
fn a_logit_that_is_no_number_is_never_hidden_in_any_tile() {
    for bad in [f32::NAN, f32::INFINITY] {
        for place in [0, 39, 40, 99] {
            let mut case = Case::new(1, 100, 3);
            case.products[place] = bad;
            let [losses, _, _] = case.kernel(40);
            assert!(!losses[0].is_finite(), "{bad} at {place} gave the loss {}", losses[0]);
        }
    }
}

#[test]
fn a_tile_of_logits_that_are_all_minus_infinity_costs_nothing() {
    let mut case = Case::new(1, 100, 3);
    case.targets = vec![60];
    case.products[..40].fill(f32::NEG_INFINITY);
    let ([losses, _, gradient], [want, _]) = (case.kernel(40), case.reference());
    assert!(near(&losses, &want, 1e-5), "{losses:?} is not {want:?}");
    assert_eq!(gradient[..40], [0.0; 40]);
}

#[test]
fn a_target_beyond_all_columns_is_never_hidden() {
    let mut case = Case::new(1, 100, 3);
    case.targets = vec![100];
    let [losses, _, gradient] = case.kernel(40);
    assert!(losses.iter().chain(&gradient).all(|value| value.is_nan()));
}
