//! Whether two configurations of a job add up an update's gradients to the same bits: on other numbers of ranks, too.
//!
//! The micro-batches of an update are the leaves of one pairwise tree, whoever computes them. A rank has a block of them. One
//! rank alone has the whole tree; several continue it where each has a power of two, so that its block is a subtree, and
//! where the backend adds by the tree and nothing is rounded on the way.

use serde_json::Value;

/// How a configuration adds up the gradients of an update.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    /// Micro-batches of an update that each rank has.
    accumulation: u64,
    world_size: u64,
    /// The comm plugin.
    backend: String,
    /// Whether it adds by the pairwise tree.
    by_the_tree: bool,
    /// The type in which gradients go to other ranks.
    dtype: String,
}

impl Sums {
    /// Those of a canonical configuration. `by_the_tree` says whether its backend adds by the pairwise tree.
    pub fn of(canonical: &Value, by_the_tree: bool) -> Self {
        let (trainer, comm) = (&canonical["trainer"], &canonical["comm"]);
        Self {
            accumulation: trainer["gradient_accumulation_steps"].as_u64().unwrap_or(1),
            world_size: comm["world_size"].as_u64().unwrap_or(1),
            backend: comm["use"].as_str().unwrap_or_default().to_owned(),
            by_the_tree,
            dtype: comm["gradient_dtype"].as_str().unwrap_or("float32").to_owned(),
        }
    }

    /// Why sums do not have the bits of these other ones; none where they have.
    pub fn differ_from(&self, before: &Self) -> Option<String> {
        if self == before {
            return None;
        }
        let micro_batches = |sums: &Self| sums.accumulation.saturating_mul(sums.world_size);
        let ([was, is], ranks) =
            ([before, self].map(micro_batches), |count: u64| crate::counted::counted(count as usize, "rank"));
        if was != is {
            let batches = |sums: &Self| format!("{} with {} each", ranks(sums.world_size), sums.accumulation);
            return Some(format!(
                "an update had {was} micro-batches ({}) and would have {is} ({})",
                batches(before),
                batches(self)
            ));
        }
        [before, self].into_iter().find_map(Self::why_not_by_the_tree)
    }

    /// Why these sums are not those of the pairwise tree over all micro-batches.
    fn why_not_by_the_tree(&self) -> Option<String> {
        let Self { accumulation, world_size, backend, by_the_tree, dtype } = self;
        if *world_size == 1 {
            return None;
        }
        if !accumulation.is_power_of_two() {
            return Some(format!(
                "{world_size} ranks with {accumulation} micro-batches each round their sum in another way than other numbers \
                 of ranks: only powers of two do not"
            ));
        }
        if dtype != "float32" {
            return Some(format!("gradients that go to other ranks as {dtype} are rounded there"));
        }
        let message =
            format!("the comm plugin `{backend}` does not add gradients in an order that is the same everywhere");
        (!by_the_tree).then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sums(world_size: u64, accumulation: u64) -> Sums {
        let backend = if world_size == 1 { "local" } else { "grpc" };
        let trainer = json!({ "gradient_accumulation_steps": accumulation });
        Sums::of(&json!({ "trainer": trainer, "comm": { "use": backend, "world_size": world_size } }), true)
    }

    #[test]
    fn ranks_with_a_power_of_two_of_micro_batches_have_the_bits_of_one_with_all_of_them() {
        for (before, now) in [((1, 4), (2, 2)), ((2, 2), (4, 1)), ((4, 1), (1, 4)), ((1, 6), (3, 2)), ((3, 1), (1, 3))]
        {
            assert_eq!(sums(now.0, now.1).differ_from(&sums(before.0, before.1)), None, "{before:?} {now:?}");
        }
        assert_eq!(sums(2, 3).differ_from(&sums(2, 3)), None, "the same");
    }

    #[test]
    fn other_sums_are_refused_with_the_reason() {
        let why = |now: Sums, before: Sums| now.differ_from(&before).unwrap_or_default();
        let text = why(sums(4, 1), sums(2, 1));
        assert!(
            text.contains("had 2 micro-batches (2 ranks with 1 each) and would have 4 (4 ranks with 1 each)"),
            "{text}"
        );
        assert!(why(sums(1, 6), sums(2, 3)).contains("2 ranks with 3 micro-batches each"));
        let halves = Sums { dtype: "bfloat16".to_owned(), ..sums(2, 2) };
        assert!(why(halves, sums(1, 4)).contains("as bfloat16"));
        let ring = Sums { backend: "ring".to_owned(), by_the_tree: false, ..sums(2, 2) };
        assert!(why(ring.clone(), sums(4, 1)).contains("`ring`"));
        assert!(why(sums(1, 4), ring).contains("`ring`"));
    }
}
