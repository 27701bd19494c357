//! Registration: one macro per library names its components, for the loader and for programs that only read the file.

use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value;

use crate::{
    Bootstrap, Capabilities, CommBackend, CommRegions, Communicator, Component, Compute, DataSource, DeviceOptimizer,
    Error, Evaluation, EvaluationWeights, Kind, Model, Observer, Optimizer, PointToPoint, Prepare, ReduceScatter,
    Reference, Result, Setup, Tokenizer, Trainer, TrainerParameters, TypedSlices, TypedStates,
};

/// The name of the section that holds a library's records, where the object format is ELF.
pub const SECTION: &str = ".mdt_plugin";
/// The same for Mach-O, in segment `__DATA`.
pub const SECTION_MACH_O: &str = "__mdt_plugin";

/// A component of this library. The [`plugin!`](crate::plugin) macro makes these.
pub struct Registration {
    /// Its kind.
    pub kind: Kind,
    /// Its id, unique among components of its kind.
    pub id: &'static str,
    /// The version of the crate that it is in.
    pub version: &'static str,
    /// Creates one.
    pub create: Create,
}

type Make<T> = fn(Value, &Setup) -> Result<T>;

/// The function that creates a component, by kind. The [`plugin!`](crate::plugin) macro makes these.
#[derive(Clone, Copy)]
pub enum Create {
    /// On the compute thread, where it stays.
    Compute(Make<Rc<dyn Compute>>),
    /// On the compute thread, where it stays.
    Model(Make<ModelComponent>),
    /// On any thread.
    Tokenizer(Make<Arc<dyn Tokenizer>>),
    /// On any thread.
    Trainer(Make<TrainerComponent>),
    /// On any thread.
    Optimizer(Make<OptimizerComponent>),
    /// On any thread.
    Data(Make<Box<dyn DataSource>>),
    /// On any thread.
    Comm(Make<Box<dyn Connects>>),
    /// On any thread.
    Observer(Make<Box<dyn Observer>>),
}

/// Declares what components of a kind are made of: the trait that all of them have, and a field for each ability, which
/// is none where [`plugin!`](crate::plugin) does not name it. `__interface!` has the interface of each.
macro_rules! components {
    ($($(#[$doc:meta])* $name:ident {
        $base:ident: $pointer:ident<dyn $base_trait:ident>,
        $($(#[$ability_doc:meta])* $ability:ident: $trait:ident,)*
    })*) => { $(
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name {
            /// What all of them have.
            pub $base: $pointer<dyn $base_trait>,
            $($(#[$ability_doc])* pub $ability: Option<$pointer<dyn $trait>>,)*
        }

        impl $name {
            /// One without abilities.
            pub fn new($base: $pointer<dyn $base_trait>) -> Self {
                Self { $base, $($ability: None,)* }
            }
        }

        impl std::ops::Deref for $name {
            type Target = dyn $base_trait;

            fn deref(&self) -> &Self::Target {
                &*self.$base
            }
        }
    )* };
}
components! {
    /// A model with its abilities.
    ModelComponent {
        forward: Rc<dyn Model>,
    }

    /// A trainer with its abilities.
    TrainerComponent {
        objective: Arc<dyn Trainer>,
        /// Works on items before a batch is made.
        prepare: Prepare,
        /// Needs the weights that training began with.
        reference: Reference,
        /// Has numbers of its own for evaluations.
        evaluation: Evaluation,
        /// Has parameters of its own.
        parameters: TrainerParameters,
    }

    /// The processes of a job, connected, with the abilities of their communicator.
    Connected {
        collectives: Arc<dyn Communicator>,
        /// Gives every rank a part of a sum.
        reduce_scatter: ReduceScatter,
        /// Sends from one rank to another.
        point_to_point: PointToPoint,
        /// Has memory of its own.
        regions: CommRegions,
    }
}

/// A communication backend, whatever its communicators are.
pub trait Connects: Send + Sync {
    /// [`CommBackend::capabilities`].
    fn capabilities(&self) -> Result<Capabilities>;
    /// [`CommBackend::open`].
    fn open(&self, bootstrap: &Bootstrap) -> Result<Connected>;
}

/// A backend, and what gives its communicators with their abilities.
pub struct Backend<B, F>(pub B, pub F);

impl<B: CommBackend, F: Fn(Arc<B::Communicator>) -> Connected + Send + Sync> Connects for Backend<B, F> {
    fn capabilities(&self) -> Result<Capabilities> {
        self.0.capabilities()
    }

    fn open(&self, bootstrap: &Bootstrap) -> Result<Connected> {
        Ok((self.1)(Arc::new(self.0.open(bootstrap)?)))
    }
}

/// An optimizer by its abilities: all are optional, and it has at least one that updates.
#[derive(Clone, Default)]
pub struct OptimizerComponent {
    /// Updates slices of f32, with states of f32.
    pub slices: Option<Arc<dyn Optimizer>>,
    /// Declares states of any type for each parameter.
    pub typed_states: Option<Arc<dyn TypedStates>>,
    /// Updates slices of f32, with states of any type.
    pub typed_slices: Option<Arc<dyn TypedSlices>>,
    /// Updates tensors on the device.
    pub device: Option<Arc<dyn DeviceOptimizer>>,
    /// Gives other weights for evaluation and export than for training.
    pub evaluation_weights: Option<Arc<dyn EvaluationWeights>>,
}

impl OptimizerComponent {
    /// An optimizer on slices, without any other ability.
    pub fn new(slices: Arc<dyn Optimizer>) -> Self {
        Self { slices: Some(slices), ..Self::default() }
    }
}

inventory::collect!(Registration);

/// The crate of a library and its version, for what is said of the library as a whole. [`plugin!`](crate::plugin) makes it.
pub struct Package(pub &'static str);

inventory::collect!(Package);

impl Package {
    /// That of this library; none where no `plugin!` is in it.
    pub(crate) fn of_this_library() -> Option<&'static str> {
        inventory::iter::<Self>().next().map(|package| package.0)
    }
}

impl Registration {
    /// All components of this library, sorted by kind and id.
    pub fn all() -> Vec<&'static Self> {
        let mut all: Vec<_> = inventory::iter::<Self>().collect();
        all.sort_by_key(|registration| (registration.kind, registration.id));
        all
    }
}

impl Create {
    /// The kind of the component that it creates.
    const fn kind(&self) -> Kind {
        match self {
            Self::Compute(_) => Kind::Compute,
            Self::Model(_) => Kind::Model,
            Self::Trainer(_) => Kind::Trainer,
            Self::Optimizer(_) => Kind::Optimizer,
            Self::Data(_) => Kind::Data,
            Self::Comm(_) => Kind::Comm,
            Self::Observer(_) => Kind::Observer,
            Self::Tokenizer(_) => Kind::Tokenizer,
        }
    }
}

impl Registration {
    /// Registers a component.
    pub const fn new(id: &'static str, version: &'static str, create: Create) -> Self {
        Self { kind: create.kind(), id, version, create }
    }
}

/// What a build script has declared as the name of the sources, or nothing.
#[doc(hidden)]
pub const fn sources(declared: Option<&'static str>) -> &'static str {
    let Some(name) = declared else { return "" };
    let mut at = 0;
    while at < name.len() {
        let byte = name.as_bytes()[at];
        assert!(
            byte >= b' ' && byte != b'"' && byte != b'\\' && byte != 127,
            "MDT_PLUGIN_SOURCES is written into a JSON string: it has no quotes, backslashes or control characters"
        );
        at += 1;
    }
    name
}

/// Checks, when a plugin is built, that an optimizer declares states and can update.
#[doc(hidden)]
pub const fn check_optimizer(abilities: &[&str]) {
    assert!(
        any_of(abilities, &["slices", "typed_states"]),
        "an optimizer declares its states: add the ability `slices` (trait Optimizer) or `typed_states` (trait TypedStates)"
    );
    assert!(
        any_of(abilities, &["slices", "typed_slices", "device"]),
        "an optimizer updates: add the ability `slices` (trait Optimizer), `typed_slices` (trait TypedSlices) or `device` \
         (trait DeviceOptimizer)"
    );
    assert!(
        any_of(abilities, &["typed_slices", "device"]) || !any_of(abilities, &["typed_states"]),
        "typed states are for `typed_slices` or `device`: add the one by which this optimizer updates"
    );
}

const fn any_of(names: &[&str], wanted: &[&str]) -> bool {
    let (mut name, mut found) = (0, false);
    while name < names.len() {
        let mut want = 0;
        while want < wanted.len() {
            found |= is_same(names[name].as_bytes(), wanted[want].as_bytes());
            want += 1;
        }
        name += 1;
    }
    found
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// For the expansion of [`plugin!`](crate::plugin).
#[doc(hidden)]
pub mod pointers {
    pub use std::rc::Rc;
    pub use std::sync::Arc;
}

/// Creates a component from its configuration.
#[doc(hidden)]
pub fn create<T: Component>(config: Value, setup: &Setup) -> Result<T> {
    let config = serde_json::from_value(config).map_err(|error| Error::config(error.to_string()))?;
    T::create(config, setup)
}

/// Turns a library into a plugin: registers its components.
///
/// `plugin! { optimizer "lion" => Lion; }` — the kinds are `compute`, `model`, `tokenizer`, `trainer`, `optimizer`,
/// `data`, `comm`, `observer`.
///
/// What a component can do beyond what every one of its kind does is a trait of its own, an ability, and is named after the
/// type: `optimizer "muon" => Muon: device, typed_states;`. A component has no ability that is not named there.
///
/// | kind | ability | trait |
/// |---|---|---|
/// | `optimizer` | `slices`, which it has where none is named | [`Optimizer`] |
/// | | `typed_states` | [`TypedStates`] |
/// | | `typed_slices` | [`TypedSlices`] |
/// | | `device` | [`DeviceOptimizer`] |
/// | | `evaluation_weights` | [`EvaluationWeights`] |
/// | `trainer` | `prepare` | [`Prepare`] |
/// | | `reference` | [`Reference`] |
/// | | `evaluation` | [`Evaluation`] |
/// | | `parameters` | [`TrainerParameters`] |
/// | `comm`, of its communicators | `reduce_scatter` | [`ReduceScatter`] |
/// | | `point_to_point` | [`PointToPoint`] |
/// | | `regions` | [`CommRegions`] |
///
/// Native libraries that must lie beside the host's come first: `native "libmlx.so", "libmlxc.so";`. Before them,
/// `on_load Type;` names an [`OnLoad`](crate::abi::OnLoad) for what has to happen when the library is loaded.
///
/// Ranks of one job run the same file of a plugin, or builds of the same sources. A build script names these, by a checksum or a
/// commit: `println!("cargo::rustc-env=MDT_PLUGIN_SOURCES={name}")`. Files that differ are then taken for the same plugin where
/// version and name are the same.
///
/// It emits the library's one entry symbol, a registration per component, and a record per component in the section
/// [`SECTION`] of the file, with the schema of its configuration, so that a host knows all of them without running any.
#[macro_export]
macro_rules! plugin {
    (on_load $on_load:ty; native $($native:literal),+; $($component:tt)+) => {
        $crate::__plugin! { [$on_load] [$($native)+] $($component)+ }
    };
    (on_load $on_load:ty; $($component:tt)+) => {
        $crate::__plugin! { [$on_load] [] $($component)+ }
    };
    (native $($native:literal),+; $($component:tt)+) => {
        $crate::__plugin! { [()] [$($native)+] $($component)+ }
    };
    ($($component:tt)+) => {
        $crate::__plugin! { [()] [] $($component)+ }
    };
}

/// The expansion of [`plugin!`](crate::plugin) after its options are read.
#[doc(hidden)]
#[macro_export]
macro_rules! __plugin {
    ([$on_load:ty] [$($native:literal)*] $($kind:ident $id:literal => $type:ty $(: $($ability:ident),+)?;)+) => {
        $crate::__record!([concat!(
            "{\"abi\":\"", $crate::__abi_version!(),
            "\",\"package\":\"", env!("CARGO_PKG_NAME"),
            "\",\"version\":\"", env!("CARGO_PKG_VERSION"),
            "\",\"license\":\"", env!("CARGO_PKG_LICENSE"),
            "\",\"native\":\"", $($native, " ",)*
            "\",\"sources\":\"",
        )] [$crate::config::Json::Text($crate::register::sources(option_env!("MDT_PLUGIN_SOURCES")))] ["\"}\n"]);
        $(
            $crate::__record!([concat!(
                "{\"kind\":\"", stringify!($kind),
                "\",\"id\":\"", $id,
                "\",\"interfaces\":[", $crate::__interfaces!($kind $($($ability)+)?),
                "],\"needs\":[", $crate::__needs!($kind $($($ability)+)?), "],\"schema\":",
            )] [<<$type as $crate::Component>::Config as $crate::config::Configurable>::JSON] ["}\n"]);
            $crate::inventory::submit! {
                $crate::register::Registration::new(
                    $id, env!("CARGO_PKG_VERSION"), $crate::__create!($kind $type: $($($ability)+)?),
                )
            }
        )+

        $crate::inventory::submit! {
            $crate::register::Package(concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")))
        }

        #[cfg(panic = "abort")]
        compile_error!("a plugin needs `panic = \"unwind\"`: its panics become errors that name it, and must not end the host");

        /// The library's one entry symbol.
        #[unsafe(no_mangle)]
        pub static MDT_PLUGIN_ENTRY: $crate::abi::Entry = $crate::abi::entry::<$on_load>();
    };
}

/// How a component with these abilities is created.
#[doc(hidden)]
#[macro_export]
macro_rules! __create {
    (compute $type:ty:) => {
        $crate::register::Create::Compute(|config, setup| {
            Ok(::std::rc::Rc::new($crate::register::create::<$type>(config, setup)?))
        })
    };
    (data $type:ty:) => {
        $crate::register::Create::Data(|config, setup| {
            Ok(::std::boxed::Box::new($crate::register::create::<$type>(config, setup)?))
        })
    };
    (comm $type:ty: $($ability:ident)*) => {
        $crate::register::Create::Comm(|config, setup| {
            let backend = $crate::register::create::<$type>(config, setup)?;
            Ok(::std::boxed::Box::new($crate::register::Backend(backend, |made: $crate::register::pointers::Arc<<$type as $crate::CommBackend>::Communicator>| {
                $crate::__with_abilities!(Connected, made: $($ability)*)
            })))
        })
    };
    (observer $type:ty:) => {
        $crate::register::Create::Observer(|config, setup| {
            Ok(::std::boxed::Box::new($crate::register::create::<$type>(config, setup)?))
        })
    };
    (tokenizer $type:ty:) => {
        $crate::register::Create::Tokenizer(|config, setup| {
            Ok(::std::sync::Arc::new($crate::register::create::<$type>(config, setup)?))
        })
    };
    (optimizer $type:ty:) => {
        $crate::__create!(optimizer $type: slices)
    };
    (optimizer $type:ty: $($ability:ident)+) => {
        $crate::register::Create::Optimizer({
            const { $crate::register::check_optimizer(&[$(stringify!($ability)),+]) };
            |config, setup| {
                let made = ::std::sync::Arc::new($crate::register::create::<$type>(config, setup)?);
                let mut component = $crate::register::OptimizerComponent::default();
                $(component.$ability = Some(made.clone());)+
                Ok(component)
            }
        })
    };
    (model $type:ty: $($ability:ident)*) => {
        $crate::__create!(Model ModelComponent Rc, $type: $($ability)*)
    };
    (trainer $type:ty: $($ability:ident)*) => {
        $crate::__create!(Trainer TrainerComponent Arc, $type: $($ability)*)
    };
    ($kind:ident $component:ident $pointer:ident, $type:ty: $($ability:ident)*) => {
        $crate::register::Create::$kind(|config, setup| {
            let made = $crate::register::pointers::$pointer::new($crate::register::create::<$type>(config, setup)?);
            Ok($crate::__with_abilities!($component, made: $($ability)*))
        })
    };
    ($kind:ident $type:ty: $($ability:ident)*) => {
        compile_error!(concat!("there is no kind of component `", stringify!($kind), "`, or it has no abilities"))
    };
}

/// A component of what was made, with these abilities.
#[doc(hidden)]
#[macro_export]
macro_rules! __with_abilities {
    ($component:ident, $made:ident: $($ability:ident)*) => {{
        #[allow(unused_mut)]
        let mut component = $crate::register::$component::new($made.clone());
        $(component.$ability = Some($made.clone());)*
        component
    }};
}

/// One record in the section: text, and for a component its schema and further text.
#[doc(hidden)]
#[macro_export]
macro_rules! __record {
    ([$begin:expr] $([$schema:expr] [$end:expr])?) => {
        const _: () = {
            use $crate::config::Json;
            const RECORD_TEXT: Json = Json::Join(&[Json::Text($begin), $($schema, Json::Text($end))?]);
            #[used]
            #[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mdt_plugin"))]
            #[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".mdt_plugin"))]
            static RECORD: [u8; RECORD_TEXT.len()] = RECORD_TEXT.bytes();
        };
    };
}
