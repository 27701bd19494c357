//! Components that misbehave, each in one way.

mod endless;
mod model;
mod notes;
mod prepare;
mod states;
mod trainer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// No keys.
    pub struct NoKeys {}
}

/// SGD until update 3, where it panics.
struct PanicsAtThree;

impl Component for PanicsAtThree {
    type Config = NoKeys;

    fn create(_config: NoKeys, _setup: &Setup) -> Result<Self> {
        Ok(Self)
    }
}

impl Optimizer for PanicsAtThree {
    fn states(&self) -> Vec<StateSpec> {
        Vec::new()
    }

    fn update(
        &self,
        update: &Update<'_>,
        parameter: &mut [f32],
        gradient: &[f32],
        _states: &mut [&mut [f32]],
    ) -> Result<()> {
        assert!(update.step < 3, "three is too much for me");
        let rate = update.learning_rate as f32;
        parameter.iter_mut().zip(gradient).for_each(|(parameter, gradient)| *parameter -= rate * gradient);
        Ok(())
    }
}

mdt_plugin_api::config! {
    /// How the process ends.
    pub struct EndKeys {
        /// `exit`, `_exit`, `abort` or `fault`; or `spin`, which never comes back.
        by: String = "exit".to_owned(),
        /// Whether it does so when it is made, and not in update 3.
        at_once: bool = false,
        /// A file by which only one of several processes ends: the one that creates it.
        only_by_creating: Option<String> = None,
    }
}

unsafe extern "C" {
    fn _exit(status: i32) -> !;
}

/// Never comes back.
fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// Never comes back: spins, or ends the process.
fn misbehave(by: &str) -> ! {
    match by {
        "spin" => spin(),
        "abort" => std::process::abort(),
        "fault" => {
            // SAFETY: none; this is the fault that the test wants.
            unsafe { std::ptr::null_mut::<u64>().wrapping_add(1).write_volatile(1) };
            spin()
        }
        // SAFETY: it ends the process, as the test wants, without what the host has registered for that.
        "_exit" => unsafe { _exit(0) },
        _ => std::process::exit(0),
    }
}

/// An optimizer that ends the process in update 3.
struct EndsTheProcess(EndKeys);

impl Component for EndsTheProcess {
    type Config = EndKeys;

    fn create(config: EndKeys, _setup: &Setup) -> Result<Self> {
        let made = Self(config);
        if made.0.at_once {
            made.end();
        }
        Ok(made)
    }
}

impl EndsTheProcess {
    fn end(&self) {
        let is_chosen = |file: &String| std::fs::File::create_new(file).is_ok();
        if self.0.only_by_creating.as_ref().is_none_or(is_chosen) {
            misbehave(&self.0.by);
        }
    }
}

impl Optimizer for EndsTheProcess {
    fn states(&self) -> Vec<StateSpec> {
        Vec::new()
    }

    fn update(&self, update: &Update<'_>, _: &mut [f32], _: &[f32], _: &mut [&mut [f32]]) -> Result<()> {
        if update.step == 3 {
            self.end();
        }
        Ok(())
    }
}

/// An optimizer that cannot even be made.
struct PanicsWhenMade;

impl Component for PanicsWhenMade {
    type Config = NoKeys;

    fn create(_config: NoKeys, _setup: &Setup) -> Result<Self> {
        panic!("born to fail")
    }
}

impl Optimizer for PanicsWhenMade {
    fn states(&self) -> Vec<StateSpec> {
        Vec::new()
    }

    fn update(&self, _: &Update<'_>, _: &mut [f32], _: &[f32], _: &mut [&mut [f32]]) -> Result<()> {
        Ok(())
    }
}

/// An optimizer that does nothing and cannot be given back.
struct PanicsWhenDropped;

impl Component for PanicsWhenDropped {
    type Config = NoKeys;

    fn create(_config: NoKeys, _setup: &Setup) -> Result<Self> {
        Ok(Self)
    }
}

impl Optimizer for PanicsWhenDropped {
    fn states(&self) -> Vec<StateSpec> {
        Vec::new()
    }

    fn update(&self, _: &Update<'_>, _: &mut [f32], _: &[f32], _: &mut [&mut [f32]]) -> Result<()> {
        Ok(())
    }
}

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("not without a fight");
    }
}

/// A trainer that panics at rows 32 and 100, at row 100 first: rows before 32 wait for that.
struct PanicsAtRow32;

impl Component for PanicsAtRow32 {
    type Config = NoKeys;

    fn create(_config: NoKeys, _setup: &Setup) -> Result<Self> {
        Ok(Self)
    }
}

impl Trainer for PanicsAtRow32 {
    fn encode(&self, example: &Example) -> Result<Vec<Item>> {
        /// Of all trainers in the process, so that rows wait once.
        static PANICKING: AtomicBool = AtomicBool::new(false);
        if example.row < 32 && !PANICKING.load(Ordering::Relaxed) {
            let begin = Instant::now();
            while !PANICKING.load(Ordering::Relaxed) && begin.elapsed() < Duration::from_secs(2) {
                std::thread::yield_now();
            }
            // Until the panic is caught.
            std::thread::sleep(Duration::from_millis(50));
        }
        if matches!(example.row, 32 | 100) {
            PANICKING.store(true, Ordering::Relaxed);
            panic!("row {} is one too many", example.row);
        }
        Ok(vec![Item::of(vec![1, 2], vec![false, true])])
    }

    fn collate(&self, _: &BatchRows<'_>) -> Result<HostBatch> {
        Ok(HostBatch::default())
    }

    fn loss(&self, _: &TrainerContext, _: &Batch) -> Result<Loss> {
        Err(Error::plugin("this trainer has no loss"))
    }
}

mdt_plugin_api::plugin! {
    trainer "panics_at_row_32" => PanicsAtRow32;
    optimizer "panics_when_dropped" => PanicsWhenDropped;
    data "endless" => endless::Endless;
    observer "notes" => notes::Notes;
    optimizer "ends_the_process" => EndsTheProcess;
    optimizer "panics_at_three" => PanicsAtThree;
    optimizer "panics_when_made" => PanicsWhenMade;
    optimizer "states" => states::States;
    trainer "bytes" => trainer::Bytes;
    trainer "slow_to_prepare" => prepare::SlowToPrepare: prepare;
    model "declares" => model::Declares;
}
