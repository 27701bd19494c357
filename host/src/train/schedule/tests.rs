//! The promises of every schedule: exact warm-up, bounds, where it falls, and a last update that still counts.

use super::*;
use crate::config::{Constant, Decay, Polynomial, Wsd};
use proptest::prelude::*;
use std::f64::consts::PI;

fn cosine(warmup_steps: u64, min_ratio: f64, total: u64) -> Schedule {
    let scheduler = Scheduler::Cosine(Decay { warmup_steps, min_ratio });
    Schedule::new(&scheduler, 1e-4, total)
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * b.abs()
}

/// Every scheduler that falls, from this warm-up down to this part of the peak.
fn falling(warmup_steps: u64, min_ratio: f64) -> Vec<Scheduler> {
    let polynomial = |power| Scheduler::Polynomial(Polynomial { warmup_steps, power, min_ratio });
    vec![
        Scheduler::Cosine(Decay { warmup_steps, min_ratio }),
        Scheduler::Linear(Decay { warmup_steps, min_ratio }),
        polynomial(0.5),
        polynomial(2.0),
        Scheduler::Wsd(Wsd { warmup_steps, min_ratio, decay_ratio: 0.3, decay_steps: None }),
        Scheduler::Wsd(Wsd { warmup_steps, min_ratio, decay_ratio: 0.3, decay_steps: Some(7) }),
    ]
}

/// Every scheduler, with this warm-up.
fn all(warmup_steps: u64) -> Vec<Scheduler> {
    [vec![Scheduler::Constant(Constant { warmup_steps })], falling(warmup_steps, 0.0)].concat()
}

fn wsd(warmup_steps: u64, decay_ratio: f64, decay_steps: Option<u64>, total: u64) -> Schedule {
    let scheduler = Scheduler::Wsd(Wsd { warmup_steps, decay_ratio, decay_steps, min_ratio: 0.0 });
    Schedule::new(&scheduler, 1e-4, total)
}

#[test]
fn warm_up_of_100_starts_at_a_hundredth_and_reaches_the_peak_at_100() {
    for scheduler in all(100) {
        let schedule = Schedule::new(&scheduler, 1e-4, 1000);
        assert!(close(schedule.learning_rate(1), 1e-6), "{scheduler:?}");
        assert_eq!(schedule.learning_rate(100), 1e-4, "{scheduler:?}");
        assert!(schedule.learning_rate(101) <= 1e-4, "{scheduler:?}");
        assert!(schedule.learning_rate(1000) > 0.0, "{scheduler:?}");
    }
}

#[test]
fn the_last_of_a_million_updates_still_moves_the_weights() {
    for scheduler in all(0) {
        for total in [1, 1_000_000, u64::MAX / 2] {
            let schedule = Schedule::new(&scheduler, 1e-4, total);
            assert!(schedule.learning_rate(total) > 0.0, "{scheduler:?}");
            assert_eq!(schedule.learning_rate(total + 1), schedule.learning_rate(total), "{scheduler:?}");
        }
    }
}

#[test]
fn a_job_shorter_than_its_warm_up_never_reaches_the_peak() {
    for scheduler in all(100) {
        let schedule = Schedule::new(&scheduler, 1e-4, 10);
        assert!(close(schedule.learning_rate(10), 1e-5), "{scheduler:?}");
        assert!(schedule.learning_rate(200) <= 1e-4, "{scheduler:?}");
    }
}

#[test]
fn a_constant_schedule_without_warm_up_is_the_peak_from_the_first_update() {
    let schedule = Schedule::new(&Scheduler::Constant(Constant { warmup_steps: 0 }), 0.5, 3);
    assert_eq!([1, 2, 3].map(|u| schedule.learning_rate(u)), [0.5; 3]);
}

#[test]
fn without_a_warm_up_the_first_update_has_the_peak_and_a_job_of_one_trains_at_it() {
    for scheduler in all(0) {
        assert_eq!(Schedule::new(&scheduler, 1e-4, 1).learning_rate(1), 1e-4, "{scheduler:?}");
        for update in 1..=9 {
            let rates = [0, 1].map(|warmup| {
                let position = all(0).iter().position(|other| *other == scheduler).unwrap();
                Schedule::new(&all(warmup)[position], 1e-4, 9).learning_rate(update)
            });
            assert_eq!(rates[0], rates[1], "no warm-up is a warm-up of one: {scheduler:?}");
        }
    }
}

#[test]
fn a_linear_schedule_falls_by_the_same_step_each_time() {
    let scheduler = Scheduler::Linear(Decay { warmup_steps: 2, min_ratio: 0.5 });
    let schedule = Schedule::new(&scheduler, 1.0, 5);
    assert_eq!([1, 2, 3, 4, 5].map(|u| schedule.learning_rate(u)), [0.5, 1.0, 0.875, 0.75, 0.625]);
}

#[test]
fn wsd_stays_at_the_peak_until_the_decay_begins() {
    for schedule in [wsd(10, 0.2, None, 100), wsd(10, 0.5, Some(20), 100)] {
        assert!((10..=80).all(|u| schedule.learning_rate(u) == 1e-4));
        assert!(close(schedule.learning_rate(81), 1e-4 * 20.0 / 21.0));
        assert!(close(schedule.learning_rate(100), 1e-4 / 21.0));
    }
}

#[test]
fn a_decay_longer_than_what_follows_the_warm_up_leaves_the_warm_up_alone() {
    for schedule in [wsd(10, 1.0, None, 20), wsd(10, 0.1, Some(u64::MAX), 20)] {
        assert_eq!(schedule.learning_rate(10), 1e-4);
        assert!(close(schedule.learning_rate(11), 1e-4 * 10.0 / 11.0));
    }
}

#[test]
fn wsd_without_decay_is_constant() {
    for schedule in [wsd(0, 0.0, None, 50), wsd(0, 0.1, Some(0), 50)] {
        assert!((1..=60).all(|u| schedule.learning_rate(u) == 1e-4));
    }
}

#[test]
fn rates_have_the_same_bits_for_good_and_on_every_machine() {
    let bits = |scheduler: Scheduler| {
        let schedule = Schedule::new(&scheduler, 1e-4, 9);
        [3, 6, 9].map(|update| schedule.learning_rate(update).to_bits())
    };
    let (warmup_steps, min_ratio) = (2, 0.1);
    let cosine = bits(Scheduler::Cosine(Decay { warmup_steps, min_ratio }));
    assert_eq!(cosine, [0x3f19_5102_a211_d0f5, 0x3f0c_d5f9_9c38_b04a, 0x3eec_27b7_d136_fab1]);
    let polynomial = bits(Scheduler::Polynomial(Polynomial { warmup_steps, power: 1.5, min_ratio }));
    assert_eq!(polynomial, [0x3f15_ee96_82ab_4a55, 0x3f05_ecf5_904c_c476, 0x3eed_5019_9fed_5e0e]);
}

proptest! {
    #[test]
    fn cosine_follows_the_textbook_formula(
        warmup in 0u64..50, length in 1u64..500, min_ratio in 0.0f64..=1.0, part in 0.0f64..1.0,
    ) {
        let (warmup, total) = (warmup.max(1), warmup.max(1) + length);
        let update = warmup + 1 + (part * length as f64) as u64;
        let angle = PI * (update - warmup) as f64 / (total - warmup + 1) as f64;
        let expected = 1e-4 * (min_ratio + (1.0 - min_ratio) * 0.5 * (1.0 + angle.cos()));
        let got = cosine(warmup, min_ratio, total).learning_rate(update);
        prop_assert!((got - expected).abs() <= 1e-18 + 1e-9 * expected, "{got} {expected}");
    }

    #[test]
    fn polynomial_follows_the_textbook_formula(
        warmup in 0u64..50, length in 1u64..500, power in 0.0f64..4.0, min_ratio in 0.0f64..=1.0, part in 0.0f64..1.0,
    ) {
        let (warmup, total) = (warmup.max(1), warmup.max(1) + length);
        let update = warmup + 1 + (part * length as f64) as u64;
        let progress = (update - warmup) as f64 / (length + 1) as f64;
        let expected = 1e-4 * (min_ratio + (1.0 - min_ratio) * (1.0 - progress).powf(power));
        let scheduler = Scheduler::Polynomial(Polynomial { warmup_steps: warmup, power, min_ratio });
        let got = Schedule::new(&scheduler, 1e-4, total).learning_rate(update);
        prop_assert!((got - expected).abs() <= 1e-9 * expected, "{got} {expected}");
    }

    #[test]
    fn a_power_of_one_is_linear(
        warmup in 0u64..50, total in 1u64..500, min_ratio in 0.0f64..=1.0, update in 1u64..600,
    ) {
        let linear = Scheduler::Linear(Decay { warmup_steps: warmup, min_ratio });
        let polynomial = Scheduler::Polynomial(Polynomial { warmup_steps: warmup, power: 1.0, min_ratio });
        let [linear, polynomial] = [linear, polynomial].map(|s| Schedule::new(&s, 1e-4, total).learning_rate(update));
        prop_assert_eq!(linear, polynomial);
    }

    #[test]
    fn every_schedule_rises_to_the_peak_then_never_rises_and_stays_within_bounds(
        warmup in 0u64..40, length in 2u64..200, min_ratio in 0.0f64..0.99,
    ) {
        let total = warmup + length;
        for scheduler in falling(warmup, min_ratio) {
            let schedule = Schedule::new(&scheduler, 1e-4, total);
            let rates: Vec<f64> = (1..=total).map(|u| schedule.learning_rate(u)).collect();
            prop_assert!(rates.iter().all(|&r| r > 0.0 && r <= 1e-4), "{scheduler:?}");
            let turn = warmup.saturating_sub(1) as usize;
            prop_assert!(rates[..=turn].windows(2).all(|w| w[0] < w[1]), "{scheduler:?}");
            prop_assert!(warmup == 0 || rates[turn] == 1e-4, "{scheduler:?}");
            let flat = |w: &[f64]| matches!(scheduler, Scheduler::Wsd(_)) && w == [1e-4; 2];
            prop_assert!(rates[turn..].windows(2).all(|w| w[0] > w[1] || flat(w)), "{scheduler:?}");
            prop_assert!(rates[warmup as usize..].iter().all(|&r| r >= 1e-4 * min_ratio), "{scheduler:?}");
        }
    }

    #[test]
    fn the_rate_of_an_update_does_not_depend_on_what_was_asked_before(
        warmup in 0u64..40, total in 1u64..200, asked in prop::collection::vec(1u64..300, 1..50),
    ) {
        for scheduler in all(warmup) {
            let schedule = Schedule::new(&scheduler, 1e-4, total);
            for &update in &asked {
                let alone = Schedule::new(&scheduler, 1e-4, total).learning_rate(update);
                prop_assert_eq!(schedule.learning_rate(update).to_bits(), alone.to_bits());
            }
        }
    }
}
