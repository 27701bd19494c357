//! The evaluation of a graph with sizes in the place of memory.

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

use super::allocator::Allocator;
use super::layout::Layout;
use super::operation::{Memory, Step, Value, View, copies_input, memory_of};

/// MLX prepares operations, with memory for their results, before earlier ones have run: what it dispatches counts by tens, and
/// it waits once there are more than so many tens (`MAX_ACTIVE_TASKS`, `DISPATCHES_PER_TASK`).
const TASKS_AHEAD: usize = 10;
const DISPATCHES_OF_A_TASK: usize = 10;

/// MLX lets a result lie in the memory of an input that is larger by no more than this.
const DONATION_EXTRA: u64 = 16384;

/// A buffer; the number of its owners says who needs it. None for memory that was there before.
type Buffer = Rc<Option<u64>>;

/// An array that was computed.
struct Computed {
    buffer: Buffer,
    layout: Layout,
    item_size: usize,
    /// How many operations have yet to read it, and one if it is a result of the evaluation.
    needed: usize,
}

/// Evaluations one after another.
#[derive(Default)]
pub struct Simulation {
    allocator: Allocator,
    /// What an evaluation has computed and is still needed, by its number in the graph.
    arrays: HashMap<usize, Computed>,
    /// What was dispatched and has not run: the buffers that are kept for it.
    pending: VecDeque<Vec<Buffer>>,
    dispatched: usize,
    active_tasks: usize,
}

impl Simulation {
    /// Runs the operations of an evaluation. `live` are the arrays that are needed by more than operations. Returns the most
    /// bytes that were in use or kept at a time so far.
    pub fn run(&mut self, steps: &[Step], live: HashSet<usize>) -> u64 {
        self.let_go(&live);
        let mut needed: HashMap<usize, usize> = live.iter().map(|&id| (id, 1)).collect();
        let (mut resident, mut leaves) = (0, HashSet::new());
        for input in steps.iter().flat_map(|step| &step.inputs) {
            *needed.entry(input.id).or_default() += 1;
            if input.is_leaf && !self.arrays.contains_key(&input.id) && leaves.insert(input.id) {
                resident += bytes(input);
            }
        }
        for computed in self.arrays.iter_mut() {
            computed.1.needed = needed.get(computed.0).copied().unwrap_or(0);
        }
        self.allocator.beside(resident);
        for step in steps {
            self.step(step, &needed);
        }
        self.wait();
        self.let_go(&live);
        self.bound_buffers();
        self.allocator.peak()
    }

    /// Gives back what nobody has a handle of.
    fn let_go(&mut self, live: &HashSet<usize>) {
        let dead: Vec<usize> = self.arrays.keys().copied().filter(|id| !live.contains(id)).collect();
        for computed in dead.into_iter().filter_map(|id| self.arrays.remove(&id)).collect::<Vec<_>>() {
            self.release(computed.buffer);
        }
    }

    /// What was dispatched has run.
    fn wait(&mut self) {
        while !self.pending.is_empty() {
            self.run_one();
        }
        self.active_tasks = 0;
    }

    fn bound_buffers(&mut self) {
        if self.allocator.is_beyond_bound() {
            self.wait();
            self.allocator.free_oldest();
        }
    }

    fn step(&mut self, step: &Step, needed: &HashMap<usize, usize>) {
        let inputs: Vec<(Buffer, Layout)> = step.inputs.iter().map(|input| self.input(input)).collect();
        let mut temporaries = Vec::new();
        for (input, (_, layout)) in step.inputs.iter().zip(&inputs) {
            if copies_input(&step.name, layout) {
                temporaries.push(self.new_buffer(bytes(input)));
            }
        }
        let (copies, mut fills) = (temporaries.len(), false);
        temporaries.extend(step.held.iter().map(|&size| Rc::new(Some(self.allocator.take(size)))));
        if step.scratch > 0 {
            let scratch = self.allocator.take(step.scratch);
            self.allocator.give(scratch);
        }
        if step.is_own {
            self.bound_buffers();
        }
        let mut made: Vec<(Buffer, Layout)> = Vec::new();
        for (place, output) in step.outputs.iter().enumerate() {
            let (shared, is_new) = self.output(step, place, output, &inputs);
            fills |= is_new;
            made.push(shared);
        }
        drop(inputs);
        for _ in 0..copies + if fills { step.kernels } else { 0 } {
            self.dispatch(Vec::new());
        }
        let mut held: Vec<Buffer> = step.inputs.iter().filter_map(|input| self.buffer_of(input)).collect();
        held.extend(made.iter().skip(1).map(|(buffer, _)| Rc::clone(buffer)));
        if let Some((first, _)) = made.first() {
            held.retain(|buffer| !Rc::ptr_eq(buffer, first));
        }
        held.extend(temporaries);
        let first_needed = made.first().map(|(buffer, _)| Rc::clone(buffer));
        for (output, (buffer, layout)) in step.outputs.iter().zip(made) {
            let needed = needed.get(&output.id).copied().unwrap_or(0);
            if needed == 0 {
                self.release(buffer);
                continue;
            }
            let computed = Computed { buffer, layout, item_size: output.item_size, needed };
            if let Some(earlier) = self.arrays.insert(output.id, computed) {
                // Another array that had the same number.
                self.release(earlier.buffer);
            }
        }
        self.dispatch(held);
        if let Some(buffer) = first_needed {
            self.release(buffer);
        }
        // The graph lets go of the inputs.
        for input in &step.inputs {
            self.read(input.id);
        }
        self.wait_if_far_ahead();
    }

    /// The buffer and layout of a result, and whether an operation fills it.
    fn output(
        &mut self,
        step: &Step,
        place: usize,
        output: &Value,
        inputs: &[(Buffer, Layout)],
    ) -> ((Buffer, Layout), bool) {
        let new = Layout::row_major(&output.shape);
        let size = bytes(output);
        match memory_of(&step.name) {
            Memory::Shared(view) | Memory::SharedOrNew(view) => {
                // The results of a custom gradient are its last inputs.
                let from = match step.name.as_str() {
                    "CustomTransforms" => step.inputs.len() - step.outputs.len() + place,
                    "Depends" => place,
                    _ => 0,
                };
                let (buffer, layout) = &inputs[from];
                match looked_at(view, layout, step, output) {
                    Some(layout) => ((Rc::clone(buffer), layout), false),
                    None => ((self.new_buffer(size), new), true),
                }
            }
            Memory::OfAnInput => {
                let layout = match inputs {
                    // Elements stay where they are, if they fill their buffer.
                    [(_, first), ..] if first.shape == output.shape && first.is_dense() => first.clone(),
                    _ => new,
                };
                let taken = step.inputs.iter().zip(inputs).find(|(input, (buffer, own))| {
                    own.shape == output.shape
                        && own.is_dense()
                        && self.may_take(step, input, buffer, size, output.item_size)
                });
                match taken.map(|(_, (buffer, own))| (Rc::clone(buffer), own.clone())) {
                    Some(shared) => (shared, true),
                    None => {
                        // A scalar of scalars has one element, whatever its shape.
                        let is_scalar = inputs.iter().all(|(_, layout)| layout.is_scalar());
                        let size = if is_scalar { output.item_size as u64 } else { size };
                        let layout = if is_scalar { Layout::row_major(&[]).broadcast(&output.shape) } else { layout };
                        ((self.new_buffer(size), layout), true)
                    }
                }
            }
            Memory::NewWithHeadsInside => ((self.new_buffer(size), Layout::heads_inside(&output.shape)), true),
            Memory::New => ((self.new_buffer(size), new), true),
        }
    }

    /// Whether a result may lie in the memory of this input: nothing else needs that, waiting operations included.
    fn may_take(&self, step: &Step, input: &Value, buffer: &Buffer, size: u64, item_size: usize) -> bool {
        let Some(computed) = self.arrays.get(&input.id) else { return false };
        let Some(own) = **buffer else { return false };
        // Its owners are the array, and the copy of this call.
        let uses = step.inputs.iter().filter(|other| other.id == input.id).count();
        computed.needed == 1
            && uses == 1
            && Rc::strong_count(buffer) == 2
            && computed.item_size == item_size
            && own <= size + DONATION_EXTRA
    }

    fn input(&self, value: &Value) -> (Buffer, Layout) {
        match self.arrays.get(&value.id) {
            Some(computed) => (Rc::clone(&computed.buffer), computed.layout.clone()),
            None => (Rc::new(None), Layout::row_major(&value.shape)),
        }
    }

    fn buffer_of(&self, value: &Value) -> Option<Buffer> {
        self.arrays.get(&value.id).map(|computed| Rc::clone(&computed.buffer))
    }

    /// One of the operations that need an array has it no more.
    fn read(&mut self, id: usize) {
        let Some(computed) = self.arrays.get_mut(&id) else { return };
        computed.needed -= 1;
        if computed.needed == 0
            && let Some(computed) = self.arrays.remove(&id)
        {
            self.release(computed.buffer);
        }
    }

    fn new_buffer(&mut self, size: u64) -> Buffer {
        Rc::new(Some(self.allocator.take(size)))
    }

    /// Drops one owner of a buffer, which is given back after the last one.
    fn release(&mut self, buffer: Buffer) {
        if let Some(Some(size)) = Rc::into_inner(buffer) {
            self.allocator.give(size);
        }
    }

    fn dispatch(&mut self, held: Vec<Buffer>) {
        self.dispatched += 1;
        if self.dispatched.is_multiple_of(DISPATCHES_OF_A_TASK) {
            self.active_tasks += 1;
        }
        self.pending.push_back(held);
    }

    fn wait_if_far_ahead(&mut self) {
        while self.active_tasks > TASKS_AHEAD {
            let first = self.dispatched - self.pending.len();
            let end = (first / DISPATCHES_OF_A_TASK + 1) * DISPATCHES_OF_A_TASK;
            for _ in first..end {
                self.run_one();
            }
            self.active_tasks -= 1;
        }
    }

    fn run_one(&mut self) {
        for buffer in self.pending.pop_front().unwrap_or_default() {
            self.release(buffer);
        }
    }
}

fn looked_at(view: View, layout: &Layout, step: &Step, output: &Value) -> Option<Layout> {
    match view {
        View::Same => Some(layout.clone()),
        View::Transposed => Some(layout.transposed(&step.axes)),
        View::Broadcast => Some(layout.broadcast(&output.shape)),
        View::Sliced => Some(layout.sliced(&output.shape)),
        View::Reshaped => layout.reshaped(&output.shape),
        View::RowMajor => layout.is_row_major().then(|| layout.clone()),
    }
}

fn bytes(value: &Value) -> u64 {
    value.shape.iter().product::<usize>() as u64 * value.item_size as u64
}
