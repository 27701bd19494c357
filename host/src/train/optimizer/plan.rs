//! How each parameter will be updated: by which of the optimizer's abilities, with which rate, decay and states.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use mdt_plugin_api::register::OptimizerComponent;
use mdt_plugin_api::{
    DeviceOptimizer, Dtype, EvaluationWeights, Granularity, Initial, Layout, Optimizer, ParameterSpec, Role,
    StateShape, StateSpec, TypedSlices,
};

use super::device::AT_ONCE;
use super::state;
use crate::config;
use crate::exit::{Failure, Status};
use crate::patterns;
use crate::storage;

/// The optimizer's abilities that this job uses, and what it needs for each parameter.
pub struct OptimizerPlan {
    /// The optimizer, for errors.
    pub(super) name: String,
    pub(super) rule: Rule,
    pub(super) evaluation_weights: Option<Arc<dyn EvaluationWeights>>,
    pub(super) parameters: Vec<ParameterPlan>,
}

/// By which ability parameters are updated.
pub(super) enum Rule {
    Slices(Arc<dyn Optimizer>),
    TypedSlices(Arc<dyn TypedSlices>),
    Device(Arc<dyn DeviceOptimizer>),
}

/// How one parameter is updated.
pub(super) struct ParameterPlan {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) role: Role,
    pub(super) layout: Layout,
    pub(super) peak_learning_rate: f64,
    pub(super) weight_decay: f64,
    pub(super) granularity: Granularity,
    pub(super) states: Vec<StateSpec>,
}

impl OptimizerPlan {
    /// Asks the optimizer for its states and checks that they can be kept and saved.
    ///
    /// # Errors
    /// Status 2 where nothing is trained, and for a pattern of `optimizer.groups` that matches no parameter. Status 3: two states would have the same
    /// name in checkpoints, one does not start as a finite number, has a type that is not stored, or would be shared by
    /// slices.
    pub fn new(
        optimizer: OptimizerComponent,
        settings: &config::Optimizer,
        parameters: &[ParameterSpec],
    ) -> Result<Self, Failure> {
        if parameters.is_empty() {
            return Err(Failure::configuration("nothing is trained: all parameters are frozen")
                .help("see `model.freeze`, `model.train` and `model.adapter`"));
        }
        if let Some(pattern) = settings.unused_pattern(parameters.iter().map(|spec| spec.name.as_str())) {
            return Err(patterns::unused("optimizer.groups", pattern, parameters));
        }
        let OptimizerComponent { slices, typed_states, typed_slices, device, evaluation_weights } = optimizer;
        let states = |parameter: &ParameterSpec| match (&typed_states, &slices) {
            (Some(typed), _) => typed.states(parameter).map_err(Failure::from),
            (None, Some(slices)) => Ok(slices.states()),
            (None, None) => Err(unusable(&settings.id, "declares no states")),
        };
        let rule = match (&device, &typed_slices, &slices, &typed_states) {
            (Some(device), ..) => Rule::Device(Arc::clone(device)),
            (None, Some(typed), ..) => Rule::TypedSlices(Arc::clone(typed)),
            (None, None, Some(slices), None) => Rule::Slices(Arc::clone(slices)),
            (None, None, ..) => return Err(unusable(&settings.id, "has no updates for the states that it declares")),
        };
        let plan = |parameter: &ParameterSpec| {
            let plan = ParameterPlan {
                name: parameter.name.clone(),
                shape: parameter.shape.clone(),
                role: parameter.role,
                layout: parameter.layout,
                peak_learning_rate: settings.learning_rate_of(&parameter.name),
                weight_decay: settings.weight_decay_of(&parameter.name),
                granularity: match &rule {
                    Rule::Slices(slices) => slices.granularity(parameter),
                    Rule::TypedSlices(typed) => typed.granularity(parameter),
                    Rule::Device(_) => Granularity::Tensor,
                },
                states: states(parameter)?,
            };
            plan.check(&settings.id, matches!(rule, Rule::Slices(_)))?;
            Ok(plan)
        };
        let plans = parameters.iter().map(plan).collect::<Result<Vec<_>, Failure>>()?;
        let mut names = HashSet::new();
        for name in plans.iter().flat_map(ParameterPlan::array_names) {
            if let Some(name) = names.replace(name) {
                return Err(declares(&settings.id, format!("states of which two would be saved as `{name}`")));
            }
        }
        let name = format!("optimizer {}", settings.id);
        Ok(Self { name, rule, evaluation_weights, parameters: plans })
    }
}

impl OptimizerPlan {
    /// The optimizer, for errors.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether gradients and states stay on the device.
    pub fn is_on_device(&self) -> bool {
        matches!(self.rule, Rule::Device(_))
    }

    /// The bytes of new values that are there beside the old ones at a time, where all states are here.
    pub fn update_bytes(&self) -> u64 {
        let elements = |plan: &ParameterPlan| plan.shape.iter().product::<usize>();
        let parameters = self.parameters.iter().map(elements).sum::<usize>() * size_of::<f32>();
        let whole: Vec<_> = self.parameters.iter().map(|plan| Some(0..elements(plan))).collect();
        if self.is_on_device() { (parameters as u64 + self.state_bytes(&whole)).min(AT_ONCE as u64) } else { 0 }
    }

    /// The bytes of the states of a rank that updates these elements of the parameters.
    pub fn state_bytes(&self, own: &[Option<Range<usize>>]) -> u64 {
        let of = |(plan, own): (&ParameterPlan, &Option<Range<usize>>)| plan.state_ranges(own.as_ref());
        self.parameters.iter().zip(own).flat_map(of).map(|range| range.len() as u64).sum()
    }

    /// The elements of each parameter, and the parts in which they are updated.
    pub fn granularities(&self) -> Vec<(usize, Granularity)> {
        self.parameters.iter().map(|plan| (plan.shape.iter().product(), plan.granularity)).collect()
    }
}

impl ParameterPlan {
    fn check(&self, id: &str, only_f32: bool) -> Result<(), Failure> {
        let mut names = HashSet::new();
        for spec in &self.states {
            let StateSpec { name, shape, dtype, initial } = spec;
            if !names.insert(name) {
                return Err(declares(id, format!("two states of the name `{name}`")));
            }
            if only_f32 && (*dtype != Dtype::F32 || !matches!(shape, StateShape::Parameter | StateShape::Scalar)) {
                return Err(declares(
                    id,
                    format!("the state `{name}` of {dtype} and {shape:?}, and updates slices of f32"),
                )
                .help("its author names the abilities `typed_states` and `typed_slices` in `plugin!`"));
            }
            if storage::stored(*dtype).is_none() {
                return Err(declares(id, format!("the state `{name}` of an element type that is not known here"))
                    .help("use a newer mdt-host, or an older build of the plugin"));
            }
            match initial {
                Initial::Value(value) if state::element(*dtype, *value).is_none() => {
                    return Err(declares(id, format!("the state `{name}`, which starts as {value}"))
                        .help(format!("a state starts as a finite number that {dtype} can have")));
                }
                Initial::Parameter if *shape != StateShape::Parameter || !state::is_real(*dtype) => {
                    return Err(declares(
                        id,
                        format!("the state `{name}` of {dtype} and {shape:?}, a copy of the parameter"),
                    )
                    .help("a copy has the parameter's shape and a floating-point type"));
                }
                _ => {}
            }
            let why = match (self.granularity, shape) {
                (Granularity::Tensor, StateShape::Blocks(0)) | (_, StateShape::Blocks(0)) => "a block has no elements",
                (Granularity::Tensor, _) | (_, StateShape::Parameter) => continue,
                (Granularity::Block(slice), StateShape::Blocks(block)) if slice.is_multiple_of(*block) => continue,
                (_, StateShape::Blocks(_)) => "slices would end inside of its blocks",
                (_, StateShape::Of(_) | StateShape::Scalar) => "every slice would update the same numbers",
            };
            let what = if *shape == StateShape::Scalar { "scalar state" } else { "state" };
            return Err(declares(id, format!("the {what} `{name}` and updates slices of parameters"))
                .because(why)
                .help("its author declares `Granularity::Tensor`, or slices of whole blocks"));
        }
        if self.granularity == Granularity::Block(0) {
            return Err(declares(id, format!("slices of 0 elements for `{}`", self.name)));
        }
        Ok(())
    }

    /// The bytes of each of its states that a rank has which updates these elements.
    pub(super) fn state_ranges(&self, own: Option<&Range<usize>>) -> Vec<Range<usize>> {
        self.states.iter().map(|spec| state::range_of(spec, &self.shape, own)).collect()
    }

    /// The names of its states in checkpoints.
    pub(super) fn array_names(&self) -> impl Iterator<Item = String> {
        self.states.iter().map(|state| format!("{}.{}", self.name, state.name))
    }
}

fn declares(id: &str, what: String) -> Failure {
    Failure::new(Status::Plugin, format!("the optimizer `{id}` declares {what}"))
}

fn unusable(id: &str, why: &str) -> Failure {
    Failure::new(Status::Plugin, format!("the optimizer `{id}` cannot be used: it {why}"))
        .help("its author names its abilities in `plugin!`")
}
