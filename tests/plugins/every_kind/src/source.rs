//! Where components come from.

use std::rc::Rc;
use std::sync::Arc;

use mdt_plugin_api::abi::LoadedComponent;
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::register::{Connects, Create, ModelComponent, OptimizerComponent, Registration, TrainerComponent};
use mdt_plugin_api::serde_json::{Value, json};

/// Components named `every_kind`.
pub enum Source {
    /// Those of this program, as their authors have them.
    Native,
    /// Those of a library, as a host has them.
    Loaded(Vec<LoadedComponent>),
}

macro_rules! makers {
    ($($make:ident, $kind:ident => $made:ty;)*) => { $(
        pub(super) fn $make(&self, config: &Value, setup: &Setup) -> Result<$made> {
            match self {
                Self::Native => match native(Kind::$kind.name()).create {
                    Create::$kind(create) => create(config.clone(), setup),
                    _ => unreachable!("it was found by its kind"),
                },
                Self::Loaded(components) => loaded(components, Kind::$kind.name()).$make(config, setup),
            }
        }
    )* };
}

impl Source {
    makers! {
        compute, Compute => Rc<dyn Compute>;
        model, Model => ModelComponent;
        tokenizer, Tokenizer => Arc<dyn Tokenizer>;
        trainer, Trainer => TrainerComponent;
        optimizer, Optimizer => OptimizerComponent;
        data, Data => Box<dyn DataSource>;
        comm, Comm => Box<dyn Connects>;
        observer, Observer => Box<dyn Observer>;
    }

    /// A compute that does not fail.
    pub(super) fn plain_compute(&self) -> Rc<dyn Compute> {
        self.compute(&json!({}), &Setup::default()).expect("a compute")
    }

    /// A tokenizer that does not fail.
    pub(super) fn plain_tokenizer(&self) -> SharedTokenizer {
        let tokenizer = self.tokenizer(&json!({}), &Setup::default());
        tokenizer.and_then(SharedTokenizer::new).expect("a tokenizer")
    }

    /// What the component of a kind says of itself.
    pub(super) fn describe(&self, kind: &str) -> String {
        match self {
            Self::Native => format!("{kind} {}", native(kind).id),
            Self::Loaded(components) => {
                let component = loaded(components, kind);
                format!("{} {}", component.kind(), component.id())
            }
        }
    }

    /// What errors of a component name; none where nothing adds it.
    pub(super) fn component_name(&self, kind: &str) -> Option<&'static str> {
        match self {
            Self::Native => None,
            Self::Loaded(components) => Some(loaded(components, kind).name()),
        }
    }
}

const ID: &str = "every_kind";

fn native(kind: &str) -> &'static Registration {
    let all = Registration::all();
    let found = all.into_iter().find(|registration| (registration.kind.name(), registration.id) == (kind, ID));
    found.unwrap_or_else(|| panic!("this crate has no {kind}"))
}

fn loaded<'a>(components: &'a [LoadedComponent], kind: &str) -> &'a LoadedComponent {
    let found = components.iter().find(|component| (component.kind().name(), component.id()) == (kind, ID));
    found.unwrap_or_else(|| panic!("the library has no {kind}"))
}
