//! Registration: one macro per library names its components, for the loader and for programs that only read the file.

use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value;

use crate::{
    CommBackend, Component, Compute, DataSource, Error, Kind, Model, Observer, Optimizer, Result, Setup, Tokenizer,
    Trainer,
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

/// The function that creates a component, by kind.
#[derive(Clone, Copy)]
pub enum Create {
    /// On the compute thread, where it stays.
    Compute(Make<Rc<dyn Compute>>),
    /// On the compute thread, where it stays.
    Model(Make<Box<dyn Model>>),
    /// On any thread.
    Tokenizer(Make<Arc<dyn Tokenizer>>),
    /// On any thread.
    Trainer(Make<Box<dyn Trainer>>),
    /// On any thread.
    Optimizer(Make<Box<dyn Optimizer>>),
    /// On any thread.
    Data(Make<Box<dyn DataSource>>),
    /// On any thread.
    Comm(Make<Box<dyn CommBackend>>),
    /// On any thread.
    Observer(Make<Box<dyn Observer>>),
}

inventory::collect!(Registration);

impl Registration {
    /// All components of this library, sorted by kind and id.
    pub fn all() -> Vec<&'static Self> {
        let mut all: Vec<_> = inventory::iter::<Self>().collect();
        all.sort_by_key(|registration| (registration.kind, registration.id));
        all
    }
}

macro_rules! constructors {
    ($($name:ident, $kind:ident, $trait:ident, $pointer:ident;)*) => { impl Registration { $(
        #[doc = concat!("Registers a `", stringify!($trait), "`.")]
        pub const fn $name<T: Component + $trait>(id: &'static str, version: &'static str) -> Self {
            Self {
                kind: Kind::$kind,
                id,
                version,
                create: Create::$kind(|config, setup| Ok($pointer::new(T::create(parse::<T>(config)?, setup)?))),
            }
        }
    )* } };
}
constructors! {
    compute, Compute, Compute, Rc;
    model, Model, Model, Box;
    tokenizer, Tokenizer, Tokenizer, Arc;
    trainer, Trainer, Trainer, Box;
    optimizer, Optimizer, Optimizer, Box;
    data, Data, DataSource, Box;
    comm, Comm, CommBackend, Box;
    observer, Observer, Observer, Box;
}

fn parse<T: Component>(config: Value) -> Result<T::Config> {
    serde_json::from_value(config).map_err(|error| Error::config(error.to_string()))
}

/// Turns a library into a plugin: registers its components.
///
/// `plugin! { optimizer "lion" => Lion; }` — the kinds are `compute`, `model`, `tokenizer`, `trainer`, `optimizer`, `data`,
/// `comm`, `observer`.
/// Native libraries that must lie beside the host's come first: `native "libmlx.so", "libmlxc.so";`. Before them,
/// `on_load Type;` names an [`OnLoad`](crate::abi::OnLoad) for what has to happen when the library is loaded.
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
    ([$on_load:ty] [$($native:literal)*] $($kind:ident $id:literal => $type:ty;)+) => {
        $crate::__record!([concat!(
            "{\"abi\":\"", $crate::__abi_version!(),
            "\",\"package\":\"", env!("CARGO_PKG_NAME"),
            "\",\"version\":\"", env!("CARGO_PKG_VERSION"),
            "\",\"license\":\"", env!("CARGO_PKG_LICENSE"),
            "\",\"native\":\"", $($native, " ",)* "\"}\n",
        )]);
        $(
            $crate::__record!([concat!(
                "{\"kind\":\"", stringify!($kind),
                "\",\"id\":\"", $id,
                "\",\"interfaces\":[\"", $crate::__interface!($kind),
                "\"],\"needs\":", $crate::__needs!($kind), ",\"schema\":",
            )] [<<$type as $crate::Component>::Config as $crate::config::Configurable>::JSON] ["}\n"]);
            $crate::inventory::submit! {
                $crate::register::Registration::$kind::<$type>($id, env!("CARGO_PKG_VERSION"))
            }
        )+

        #[cfg(panic = "abort")]
        compile_error!("a plugin needs `panic = \"unwind\"`: its panics become errors that name it, and must not end the host");

        /// The library's one entry symbol.
        #[unsafe(no_mangle)]
        pub static MDT_PLUGIN_ENTRY: $crate::abi::Entry = $crate::abi::entry::<$on_load>();
    };
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
