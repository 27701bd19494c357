//! What a job may rely on beside agreement with PyTorch (`tests/pytorch.rs`): the same bits however the work is cut.

use proptest::prelude::*;

use super::*;

/// A parameter with its states, in the middle of a training.
#[derive(Clone, Debug, PartialEq)]
struct Trained {
    parameter: Vec<f32>,
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl Trained {
    fn bits(&self) -> Vec<u32> {
        [&self.parameter, &self.mean, &self.square].into_iter().flatten().map(|value| value.to_bits()).collect()
    }

    fn update(&mut self, range: std::ops::Range<usize>, step: u64, gradient: &[f32]) -> Result<()> {
        let states = &mut [&mut self.mean[range.clone()], &mut self.square[range.clone()]];
        adamw().update(&update(step), &mut self.parameter[range.clone()], &gradient[range], states)
    }
}

fn adamw() -> AdamW {
    AdamW::new(Config::default()).unwrap()
}

fn update(step: u64) -> Update<'static> {
    Update { step, learning_rate: 3e-4, weight_decay: 0.1, ..Update::first("weight", &[4, 50]) }
}

/// Up to 200 elements, some of them zero or too small for a normal number, and a gradient for each.
fn trained() -> impl Strategy<Value = (Trained, Vec<f32>)> {
    let value = || prop_oneof![8 => -10f32..10.0, 1 => Just(0.0), 1 => -1e-39f32..1e-39];
    prop::collection::vec((value(), value(), value(), value()), 1..200).prop_map(|elements| {
        let column = |pick: fn(&(f32, f32, f32, f32)) -> f32| elements.iter().map(pick).collect::<Vec<_>>();
        let trained = Trained { parameter: column(|e| e.0), mean: column(|e| e.1), square: column(|e| e.2 * e.2) };
        (trained, column(|e| e.3))
    })
}

proptest! {
    #[test]
    fn slices_updated_alone_give_the_bits_of_the_whole(
        (start, gradient) in trained(),
        mut cuts in prop::collection::vec(0usize..200, 0..6),
        step in 1u64..10_000,
    ) {
        let size = gradient.len();
        let mut whole = start.clone();
        whole.update(0..size, step, &gradient).unwrap();

        cuts.retain(|&cut| cut < size);
        cuts.extend([0, size]);
        cuts.sort_unstable();
        let mut sliced = start;
        for cut in cuts.windows(2) {
            sliced.update(cut[0]..cut[1], step, &gradient).unwrap();
        }
        prop_assert_eq!(whole.bits(), sliced.bits());
    }

    #[test]
    fn vectorised_updates_give_the_bits_of_the_portable_loop_and_of_single_elements(
        (start, gradient) in trained(),
        step in 1u64..10_000,
    ) {
        let mut vectorised = start.clone();
        vectorised.update(0..gradient.len(), step, &gradient).unwrap();

        let mut portable = start.clone();
        let Trained { parameter, mean, square } = &mut portable;
        kernel::portable(&adamw().coefficients(&update(step)), parameter, &gradient, mean, square);
        prop_assert_eq!(vectorised.bits(), portable.bits());

        let mut single = start;
        for index in 0..gradient.len() {
            single.update(index..index + 1, step, &gradient).unwrap();
        }
        prop_assert_eq!(vectorised.bits(), single.bits());
    }
}

#[test]
fn a_late_update_is_still_finite() {
    let mut trained = Trained { parameter: vec![1.0], mean: vec![0.5], square: vec![0.25] };
    trained.update(0..1, u64::MAX, &[0.5]).unwrap();
    assert!(trained.parameter[0] < 1.0 && trained.parameter[0] > 0.999);
}

#[test]
fn states_that_do_not_fit_are_errors_and_nothing_is_written() {
    let mut parameter = [1.0; 4];
    let error = adamw().update(&update(1), &mut parameter, &[1.0; 4], &mut [&mut [0.0; 4]]).unwrap_err();
    assert_eq!((error.code(), error.message()), (ErrorCode::Plugin, "expected 2 optimizer states, got 1"));

    let states: &mut [&mut [f32]] = &mut [&mut [0.0; 4], &mut [0.0; 3]];
    let error = adamw().update(&update(1), &mut parameter, &[1.0; 4], states).unwrap_err();
    assert_eq!(error.message(), "a slice of 4 parameters came with 4 gradients and states of 4 and 3");
    assert_eq!(parameter, [1.0; 4]);
}

#[test]
fn keys_that_cannot_work_are_refused_by_name() {
    for (config, key) in [
        (Config { beta1: 1.0, ..Config::default() }, "optimizer.beta1"),
        (Config { beta2: -0.1, ..Config::default() }, "optimizer.beta2"),
        (Config { beta2: f64::NAN, ..Config::default() }, "optimizer.beta2"),
        (Config { eps: f64::INFINITY, ..Config::default() }, "optimizer.eps"),
    ] {
        let error = AdamW::new(config).err().unwrap();
        assert_eq!(error.code(), ErrorCode::Config);
        assert_eq!(error.context(), [("key".to_owned(), key.to_owned())]);
    }
}
