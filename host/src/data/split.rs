//! Which rows are held out for evaluation: a pure function of the seed, the number of rows and the number held out.

use crate::config::EvalSplit;
use crate::counted::counted;
use crate::exit::Failure;
use crate::random::Stream;

/// Marks `count` of `rows` rows. A larger `count` marks the same rows and more.
pub fn held_out(rows: usize, count: usize, seed: u64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..rows).collect();
    Stream::new(seed, "split", 0).shuffle(&mut order);
    let mut marks = vec![false; rows];
    order.iter().take(count).for_each(|&row| marks[row] = true);
    marks
}

/// The number of rows that `split` holds out of `rows`.
///
/// # Errors
/// Nothing would be left to train on, or nothing would be held out.
pub(super) fn count(split: EvalSplit, rows: usize) -> Result<usize, Failure> {
    let count = split.of(rows);
    check(count, rows)?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// Whether `count` rows can be held out of `rows`.
///
/// # Errors
/// As for [`count`].
pub(super) fn check(count: u64, rows: usize) -> Result<(), Failure> {
    let failure = |what: &str| {
        let rows = counted(rows, "row");
        Failure::configuration(format!("`data.eval_split` {what} of the {rows} that can be trained"))
    };
    if count == 0 {
        return Err(failure("holds out none").help("raise it, or give the number of rows to hold out"));
    }
    if count >= rows as u64 {
        return Err(
            failure("leaves nothing to train on").help("lower it, or evaluate on a file of its own: `data.eval`")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_draw_has_exactly_so_many_rows_and_is_the_same_again(
            rows in 0usize..300, count in 0usize..300, seed in any::<u64>(),
        ) {
            let marks = held_out(rows, count, seed);
            prop_assert_eq!(marks.len(), rows);
            prop_assert_eq!(marks.iter().filter(|&&mark| mark).count(), count.min(rows));
            prop_assert_eq!(&marks, &held_out(rows, count, seed));
        }

        #[test]
        fn a_larger_draw_contains_the_smaller_one(rows in 1usize..300, count in 0usize..300, seed in any::<u64>()) {
            let (smaller, larger) = (held_out(rows, count, seed), held_out(rows, count + 1, seed));
            prop_assert!(smaller.iter().zip(&larger).all(|(small, large)| !small || *large));
        }

        #[test]
        fn whatever_is_asked_for_both_sides_have_rows_or_it_is_an_error(
            rows in 0usize..50, number in 0u64..60, share in 0.0f64..1.0,
        ) {
            for split in [EvalSplit::Rows(number), EvalSplit::Share(share)] {
                if let Ok(count) = count(split, rows) {
                    prop_assert!(0 < count && count < rows);
                }
            }
        }
    }

    #[test]
    fn each_seed_draws_other_rows_and_every_row_can_be_drawn() {
        assert_ne!(held_out(100, 50, 1), held_out(100, 50, 2));
        let drawn = (0..200).map(|seed| held_out(10, 1, seed)).fold([0; 10], |mut counts, marks| {
            counts.iter_mut().zip(marks).for_each(|(count, mark)| *count += usize::from(mark));
            counts
        });
        assert!(drawn.iter().all(|&count| (5..45).contains(&count)), "{drawn:?}");
    }
}
