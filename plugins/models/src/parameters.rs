//! Declares parameters, under the names that transformers gives them.

use mdt_plugin_api::{Init, Layout, ParameterSpec, Role};

/// The parameters of a model so far.
pub struct Parameters {
    /// In the order of the forward pass.
    pub specs: Vec<ParameterSpec>,
    /// Width of the hidden states.
    pub hidden: usize,
    /// The initial values of weights.
    pub normal: Init,
    /// The order of the axes of linear layers.
    pub layout: Layout,
}

impl Parameters {
    /// `<name>.weight` and, where it has one, `<name>.bias` of a linear layer.
    pub fn linear(&mut self, name: &str, [output, input]: [usize; 2], bias: bool) {
        let spec = |shape| ParameterSpec::new(format!("{name}.weight"), shape, Role::Linear, self.normal);
        self.specs.push(match self.layout {
            Layout::OutIn => spec([output, input]),
            Layout::InOut => spec([input, output]).in_out(),
        });
        if bias {
            self.other(format!("{name}.bias"), output, Role::Other, Init::Zeros);
        }
    }

    /// A vector.
    pub fn other(&mut self, name: String, width: usize, role: Role, init: Init) {
        self.specs.push(ParameterSpec::new(name, [width], role, init));
    }
}
