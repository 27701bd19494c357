//! The table behind tensor handles, and the scopes that limit how long handles are valid.

use mdt_plugin_api::{Error, Handle, Result};
use mlx_rs::Array;

/// Live tensors by handle.
///
/// A handle is a slot number and that slot's generation, so a handle that was given back never names a later tensor.
/// Inside [`crate::gradient`] a scope is open; what is made in it is given back when it closes.
#[derive(Default)]
pub struct Handles {
    slots: Vec<Slot>,
    free: Vec<u32>,
    scopes: Vec<Vec<Handle>>,
    /// The error of a function of the host's that MLX called.
    failure: Option<Error>,
}

struct Slot {
    generation: u32,
    array: Option<Array>,
}

impl Handles {
    /// Takes a tensor in.
    pub fn insert(&mut self, array: Array) -> Handle {
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize].array = Some(array);
                index
            }
            None => {
                self.slots.push(Slot { generation: 1, array: Some(array) });
                (self.slots.len() - 1) as u32
            }
        };
        let handle = u64::from(self.slots[index as usize].generation) << 32 | u64::from(index);
        if let Some(scope) = self.scopes.last_mut() {
            scope.push(handle);
        }
        handle
    }

    /// The tensor of a handle.
    ///
    /// # Errors
    /// The handle was given back, died with its scope, or never was one.
    pub fn get(&self, handle: Handle) -> Result<&Array> {
        self.slots
            .get((handle & u64::from(u32::MAX)) as usize)
            .filter(|slot| u64::from(slot.generation) == handle >> 32)
            .and_then(|slot| slot.array.as_ref())
            .ok_or_else(|| {
                Error::plugin(format!("tensor handle {handle:#x} is not alive"))
                    .help("a tensor is valid until it is released, and one made inside value_and_grad until that call returns")
            })
    }

    /// The tensors of these handles; cloning one counts a reference, no elements are copied.
    pub fn clones(&self, handles: &[Handle]) -> Result<Vec<Array>> {
        handles.iter().map(|&handle| self.get(handle).cloned()).collect()
    }

    /// Puts another tensor behind a handle, and gives the earlier one; the caller drops it, after its borrow of this table has
    /// ended.
    ///
    /// # Errors
    /// As [`Handles::get`].
    pub fn replace(&mut self, handle: Handle, array: Array) -> Result<Array> {
        self.get(handle)?;
        let slot = &mut self.slots[(handle & u64::from(u32::MAX)) as usize];
        Ok(slot.array.replace(array).expect("`get` has found one"))
    }

    /// Every live tensor.
    #[cfg(mdt_native)]
    pub fn all(&self) -> impl Iterator<Item = &Array> {
        self.slots.iter().filter_map(|slot| slot.array.as_ref())
    }

    /// Every live tensor except this handle's.
    pub fn others(&self, handle: Handle) -> impl Iterator<Item = &Array> {
        let own = (handle & u64::from(u32::MAX)) as usize;
        self.slots
            .iter()
            .enumerate()
            .filter(move |&(index, _)| index != own)
            .filter_map(|(_, slot)| slot.array.as_ref())
    }

    /// Gives a handle back; the caller drops the tensor, after its borrow of this table has ended.
    pub fn remove(&mut self, handle: Handle) -> Option<Array> {
        let index = (handle & u64::from(u32::MAX)) as u32;
        let slot = self.slots.get_mut(index as usize).filter(|slot| u64::from(slot.generation) == handle >> 32)?;
        let array = slot.array.take()?;
        // A slot whose generations are used up is retired: a handle must stay unique.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free.push(index);
        }
        Some(array)
    }

    /// Opens a scope: handles made from now on are released when it closes.
    pub fn open_scope(&mut self) {
        self.scopes.push(Vec::new());
    }

    /// Closes the innermost scope and gives back the tensors that were alive in it.
    pub fn close_scope(&mut self) -> Vec<Array> {
        let made = self.scopes.pop().unwrap_or_default();
        made.into_iter().filter_map(|handle| self.remove(handle)).collect()
    }

    /// Keeps the error of a function that C++ called, for whoever called C++.
    pub fn set_failure(&mut self, error: Error) {
        self.failure = Some(error);
    }

    /// Takes that error.
    pub fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// Whether a scope is open.
    pub fn in_scope(&self) -> bool {
        !self.scopes.is_empty()
    }

    /// How many handles are alive.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.slots.iter().filter(|slot| slot.array.is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::Array;

    use super::Handles;

    #[test]
    fn a_handle_never_names_a_later_tensor() {
        let mut handles = Handles::default();
        let first = handles.insert(Array::from_int(1));
        assert!(handles.remove(first).is_some());
        let second = handles.insert(Array::from_int(2));
        assert_ne!(first, second);
        assert!(handles.get(first).is_err());
        assert!(handles.remove(first).is_none(), "a second release does nothing");
        assert!(handles.get(second).is_ok());
        assert!(handles.get(0).is_err());
    }

    #[test]
    fn a_scope_takes_its_handles_along_and_leaves_the_others() {
        let mut handles = Handles::default();
        let outer = handles.insert(Array::from_int(1));
        handles.open_scope();
        let (kept, released) = (handles.insert(Array::from_int(2)), handles.insert(Array::from_int(3)));
        handles.remove(released);
        handles.open_scope();
        let inner = handles.insert(Array::from_int(4));
        assert_eq!(handles.close_scope().len(), 1);
        assert!(handles.get(inner).is_err());
        assert!(handles.get(kept).is_ok());
        assert_eq!(handles.close_scope().len(), 1);
        assert!(handles.get(kept).is_err());
        assert!(handles.get(outer).is_ok());
        assert!(!handles.in_scope());
        assert_eq!(handles.len(), 1);
    }
}
