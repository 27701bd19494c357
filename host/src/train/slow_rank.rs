//! Notices a rank that the others wait for, update after update.

/// Updates in a row in which the same rank is the slowest before it is named.
const UPDATES: u32 = 10;

/// How much longer than the next slowest it takes: by this factor, and by this many seconds.
const FACTOR: f64 = 1.5;
const SECONDS: f64 = 0.05;

/// The rank that is behind, if it always is the same one.
#[derive(Debug, Default)]
pub(super) struct SlowRank {
    rank: usize,
    updates: u32,
    /// Seconds that it took in these updates, and the next slowest rank in each.
    seconds: [f64; 2],
}

impl SlowRank {
    /// Takes the seconds that each rank took for its own part of an update. A text where a rank has been far behind for
    /// [`UPDATES`] in a row; only once for as long as it stays behind.
    pub(super) fn add(&mut self, ranks: &[f64]) -> Option<String> {
        let (rank, &slowest) = ranks.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b))?;
        let others = ranks.iter().enumerate().filter(|(other, _)| *other != rank);
        let next = others.map(|(_, seconds)| *seconds).max_by(f64::total_cmp)?;
        if slowest < FACTOR * next || slowest - next < SECONDS {
            *self = Self::default();
            return None;
        }
        if self.rank != rank {
            *self = Self { rank, ..Self::default() };
        }
        self.updates = self.updates.saturating_add(1);
        self.seconds = [self.seconds[0] + slowest, self.seconds[1] + next];
        let [slowest, next] = self.seconds.map(|seconds| seconds / f64::from(UPDATES));
        (self.updates == UPDATES).then(|| {
            format!(
                "warning: the other ranks wait for rank {rank}: its own part of the last {UPDATES} updates took \
                 {slowest:.2} s each, that of the next slowest rank {next:.2} s"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The updates after which a rank is named.
    fn named(updates: impl IntoIterator<Item = [f64; 3]>) -> Vec<(usize, String)> {
        let mut slow = SlowRank::default();
        (1..).zip(updates).filter_map(|(update, ranks)| Some((update, slow.add(&ranks)?))).collect()
    }

    #[test]
    fn a_rank_that_is_behind_ten_times_in_a_row_is_named_once() {
        let notes = named(vec![[0.3, 0.2, 0.9]; 30]);
        let [(10, note)] = &notes[..] else { panic!("{notes:?}") };
        assert!(note.contains("wait for rank 2") && note.contains("0.90 s each") && note.contains("0.30 s"), "{note}");
        // It was as fast as the others in between.
        let again = [vec![[0.3, 0.2, 0.9]; 12], vec![[0.3; 3]], vec![[0.3, 0.2, 0.9]; 10]].concat();
        assert_eq!(named(again).iter().map(|(update, _)| *update).collect::<Vec<_>>(), [10, 23]);
    }

    #[test]
    fn ranks_that_take_turns_are_a_little_slower_or_fast_are_not_named() {
        assert!(
            named((0..40).map(|update| if update % 2 == 0 { [0.9, 0.2, 0.2] } else { [0.2, 0.9, 0.2] })).is_empty()
        );
        assert!(named(vec![[0.3, 0.3, 0.4]; 40]).is_empty());
        assert!(named(vec![[0.01, 0.01, 0.04]; 40]).is_empty());
        assert_eq!(SlowRank::default().add(&[1.0]), None);
    }
}
