//! Losses of a model's own, such as one that balances its experts; see [`mdt_plugin_api::ModelContext::auxiliary_loss`].

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use mdt_plugin_api::{Error, Result, Tensor};

/// The name and the coefficient of an auxiliary loss.
pub(super) type Label = (String, f64);

/// The auxiliary losses of one forward pass, or of one block of it: scalars.
type Losses = Vec<(Label, Tensor)>;

/// Where a pass, or a block of it, puts them.
#[derive(Clone, Default)]
pub(super) struct OfPass(Rc<RefCell<Losses>>);

impl OfPass {
    /// Adds some.
    pub(super) fn extend(&self, losses: impl IntoIterator<Item = (Label, Tensor)>) {
        self.0.borrow_mut().extend(losses);
    }

    /// Takes them out.
    pub(super) fn take(self) -> Losses {
        self.0.take()
    }
}

/// The auxiliary losses of all passes over one micro-batch.
#[derive(Clone, Default)]
pub struct AuxiliaryLosses(Rc<RefCell<Vec<Losses>>>);

/// An auxiliary loss of a micro-batch: the mean over those of its passes that have it.
pub struct AuxiliaryLoss {
    /// Its name.
    pub name: String,
    /// The mean of its values, a scalar.
    pub value: Tensor,
    /// The mean of its values times their coefficients, a scalar.
    pub weighted: Tensor,
}

impl AuxiliaryLosses {
    /// Adds those of a pass.
    pub(super) fn add(&self, pass: OfPass) {
        self.0.borrow_mut().push(pass.take());
    }

    /// The mean of each, by name.
    pub fn means(&self) -> Result<Vec<AuxiliaryLoss>> {
        let passes = self.0.borrow();
        let names: BTreeSet<&str> = passes.iter().flatten().map(|((name, _), _)| name.as_str()).collect();
        names.into_iter().map(|name| mean(name, &passes)).collect()
    }
}

fn mean(name: &str, passes: &[Losses]) -> Result<AuxiliaryLoss> {
    let mut terms = passes.iter().flatten().filter(|((other, _), _)| other == name);
    let with_it = passes.iter().filter(|pass| pass.iter().any(|((other, _), _)| other == name)).count();
    let Some(((_, coefficient), value)) = terms.next() else {
        return Err(Error::other(format!("there is no auxiliary loss `{name}`")));
    };
    let (mut sum, mut weighted) = (value.try_clone()?, value.multiply(*coefficient)?);
    for ((_, coefficient), value) in terms {
        sum = (&sum + value)?;
        weighted = (&weighted + &value.multiply(*coefficient)?)?;
    }
    let [value, weighted] = match with_it {
        1 => [sum, weighted],
        several => [sum.multiply(1.0 / several as f64)?, weighted.multiply(1.0 / several as f64)?],
    };
    Ok(AuxiliaryLoss { name: name.to_owned(), value, weighted })
}
