//! Rows of unequal length that are continued together. What stands before the shorter ones is a document of its own, as in a
//! packed row: no token sees it, and positions begin after it.

use std::ops::Range;
use std::rc::Rc;

use mdt_plugin_api::{Compute, HostArray, Result, Tensor};

/// The number of tokens before each row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Padding(Vec<usize>);

impl Padding {
    /// So much before each row; none where there is nothing before any.
    pub(super) fn before(rows: Vec<usize>) -> Option<Self> {
        rows.iter().any(|&padding| padding > 0).then_some(Self(rows))
    }

    /// That of these rows.
    pub(super) fn of_rows(&self, rows: &[usize]) -> Option<Self> {
        Self::before(rows.iter().map(|&row| self.0[row]).collect())
    }

    /// The position of each of these places in its document, int32 `[B, T]`.
    pub(super) fn positions(&self, compute: &Rc<dyn Compute>, places: Range<usize>) -> Result<Tensor> {
        self.array(compute, places, |place, padding| place.checked_sub(padding).unwrap_or(place))
    }

    /// The document of each of the first places, int32 `[B, length]`.
    pub(super) fn segments(&self, compute: &Rc<dyn Compute>, length: usize) -> Result<Tensor> {
        self.array(compute, 0..length, |place, padding| usize::from(place >= padding))
    }

    fn array(
        &self,
        compute: &Rc<dyn Compute>,
        places: Range<usize>,
        number: impl Fn(usize, usize) -> usize,
    ) -> Result<Tensor> {
        let of_row = |&padding: &usize| places.clone().map(move |place| (place, padding));
        let numbers: Vec<i32> =
            self.0.iter().flat_map(of_row).map(|(place, padding)| number(place, padding) as i32).collect();
        Tensor::from_host(compute, &HostArray::new(&[self.0.len(), places.len()], &numbers)?)
    }
}
