//! A component of every kind that is one of another plugin, but for one call, in which it misbehaves.

mod device;
mod host;
mod trap;

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use mdt_plugin_api::abi::{ENTRY_SYMBOL, LoadedComponent, load};
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::register::Connects;
use mdt_plugin_api::serde_json::json;

use trap::{Keys, Trap};

/// A component of another plugin.
pub struct Wrapped<T> {
    inner: T,
    trap: Trap,
}

impl<T> Wrapped<T> {
    /// The inner component, for a call of this method.
    fn at(&self, method: &str) -> &T {
        self.trap.at(method);
        &self.inner
    }

    /// The same.
    fn at_mut(&mut self, method: &str) -> &mut T {
        self.trap.at(method);
        &mut self.inner
    }

    fn create(keys: Keys, setup: &Setup, kind: Kind, make: impl FnOnce(&LoadedComponent) -> Result<T>) -> Result<Self> {
        let component = component(&keys.library, kind)?;
        let trap = Trap::new(keys, setup.services.clone());
        trap.at("create");
        Ok(Self { inner: make(&component)?, trap })
    }
}

impl<T> Drop for Wrapped<T> {
    fn drop(&mut self) {
        self.trap.at("drop");
    }
}

/// The first component of a kind in a library; of several, the one that reads the fixture.
fn component(library: &str, kind: Kind) -> Result<LoadedComponent> {
    let failed = |error: libloading::Error| Error::plugin(format!("{library} cannot be loaded")).caused_by(error);
    // SAFETY: the test trusts the plugin.
    let loaded = unsafe { Library::open(Some(Path::new(library)), RTLD_NOW | RTLD_LOCAL) }.map_err(failed)?;
    // SAFETY: only the address is taken.
    let entry = unsafe { loaded.get::<*const ()>(ENTRY_SYMBOL.as_bytes()) }.map_err(failed)?.as_raw_ptr();
    std::mem::forget(loaded);
    // SAFETY: it is the entry of a plugin, which was just leaked.
    let components = unsafe { load(entry.cast_const().cast()) }?;
    let of_kind = components.into_iter().filter(|component| component.kind() == kind);
    let found = of_kind.min_by_key(|component| !["llama", "jsonl"].contains(&component.id()));
    found.ok_or_else(|| Error::config(format!("{library} has no {kind}")))
}

macro_rules! components {
    ($($kind:ident $make:ident($inner:ty) $(.$part:ident)?;)*) => { $(
        impl Component for Wrapped<$inner> {
            type Config = Keys;

            fn create(keys: Keys, setup: &Setup) -> Result<Self> {
                Self::create(keys, setup, Kind::$kind, |component| {
                    let made = component.$make(&json!({}), setup)?;
                    Ok(made$(.$part)?)
                })
            }
        }
    )* };
}
components! {
    Compute compute(Rc<dyn Compute>);
    Model model(Rc<dyn Model>).forward;
    Tokenizer tokenizer(Arc<dyn Tokenizer>);
    Trainer trainer(Arc<dyn Trainer>).objective;
    Optimizer optimizer(Option<Arc<dyn Optimizer>>).slices;
    Data data(Box<dyn DataSource>);
    Comm comm(Box<dyn Connects>);
    Observer observer(Box<dyn Observer>);
}

mdt_plugin_api::plugin! {
    compute "misbehaves" => Wrapped<Rc<dyn Compute>>;
    model "misbehaves" => Wrapped<Rc<dyn Model>>;
    tokenizer "misbehaves" => Wrapped<Arc<dyn Tokenizer>>;
    trainer "misbehaves" => Wrapped<Arc<dyn Trainer>>;
    optimizer "misbehaves" => Wrapped<Option<Arc<dyn Optimizer>>>;
    data "misbehaves" => Wrapped<Box<dyn DataSource>>;
    comm "misbehaves" => Wrapped<Box<dyn Connects>>;
    observer "misbehaves" => Wrapped<Box<dyn Observer>>;
}
