//! What the kit found.

use std::collections::BTreeMap;
use std::fmt;

use mdt_plugin_api::{Dtype, OpKind};

/// What a case is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Values on several shapes.
    Values,
    /// Every attribute.
    Attributes,
    /// Inputs of different shapes.
    Broadcast,
    /// Inputs that are not contiguous: transposed, cut out of a larger one, repeated.
    Strided,
    /// Inputs with an axis of length 0.
    Empty,
    /// NaN, infinities, zeros, the largest and the smallest numbers, ties, integers that wrap around.
    Edges,
    /// Inputs of different element types.
    Types,
    /// Indices out of range.
    Indices,
    /// Calls that must be refused.
    Refused,
    /// Gradients against differences of values.
    Gradient,
    /// Gradients at special points, against stated values.
    GradientEdges,
    /// Handles, memory, `value_and_grad` and `checkpoint` themselves.
    Device,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Values => "values",
            Self::Attributes => "attributes",
            Self::Broadcast => "broadcast",
            Self::Strided => "strided",
            Self::Empty => "empty",
            Self::Edges => "edges",
            Self::Types => "types",
            Self::Indices => "indices",
            Self::Refused => "refused",
            Self::Gradient => "gradient",
            Self::GradientEdges => "gradient edges",
            Self::Device => "device",
        })
    }
}

/// The subject of a case: an operation, or `device` for what is not about one; an element type; a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// The operation's number, 0 for the device.
    pub op: u32,
    /// The number of the tested element type.
    pub dtype: u32,
    /// What it is about.
    pub kind: Kind,
}

impl Subject {
    pub(crate) fn new(op: OpKind, dtype: Dtype, kind: Kind) -> Self {
        Self { op: op.0, dtype: dtype.0, kind }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.op == 0 { "device" } else { OpKind(self.op).name() };
        write!(f, "{name} {} {}", Dtype(self.dtype), self.kind)
    }
}

/// A case that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Operation, element type and kind.
    pub subject: Subject,
    /// The call, what came of it, and what was expected, in one line.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.message)
    }
}

/// What the kit ran, and what failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of cases that ran, by operation, element type and kind.
    pub counts: BTreeMap<Subject, usize>,
    /// The cases that failed.
    pub failures: Vec<Failure>,
}

impl Report {
    pub(crate) fn add(&mut self, subject: Subject, outcome: Result<(), String>) {
        *self.counts.entry(subject).or_default() += 1;
        if let Err(message) = outcome {
            self.failures.push(Failure { subject, message });
        }
    }

    /// Number of cases that ran.
    pub fn cases(&self) -> usize {
        self.counts.values().sum()
    }

    /// Number of cases of each kind.
    pub fn kinds(&self) -> BTreeMap<Kind, usize> {
        let mut kinds = BTreeMap::new();
        self.counts.iter().for_each(|(subject, count)| *kinds.entry(subject.kind).or_default() += count);
        kinds
    }
}

/// Failures that are shown of one operation, element type and kind.
const SHOWN: usize = 3;

/// The counts in one line, and a line for each failure, but for many of one operation, element type and kind.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cases, {} failed (", self.cases(), self.failures.len())?;
        for (place, (kind, count)) in self.kinds().into_iter().enumerate() {
            write!(f, "{}{kind} {count}", if place == 0 { "" } else { ", " })?;
        }
        write!(f, ")")?;
        let mut of_subject: BTreeMap<Subject, usize> = BTreeMap::new();
        for failure in &self.failures {
            let count = of_subject.entry(failure.subject).or_default();
            *count += 1;
            if *count <= SHOWN {
                write!(f, "\n  {failure}")?;
            }
        }
        let hidden = of_subject.into_iter().filter(|&(_, count)| count > SHOWN);
        hidden.into_iter().try_for_each(|(subject, count)| write!(f, "\n  {subject}: {} more", count - SHOWN))
    }
}
