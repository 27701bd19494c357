//! Notes what components answer.

use std::any::Any;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use mdt_plugin_api::HostServices;
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::serde_json::{Value, json};

/// Calls the methods of one component, and notes what each answers. After a panic of the component it calls no more.
pub struct Recorder {
    lines: Vec<String>,
    log: Arc<Log>,
    /// What errors must name; none for a component that no boundary is before.
    component: Option<&'static str>,
    panics_in: Option<&'static str>,
    fails_in: Option<&'static str>,
    panicked: bool,
    /// Methods that are not called.
    left_out: Vec<&'static str>,
}

/// What components told the host.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Log {
    fn note(&self, line: String) {
        self.0.lock().expect("nothing panics while it notes").push(line);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("nothing panics while it notes"))
    }
}

impl HostServices for Log {
    fn log(&self, level: LogLevel, message: &str) {
        self.note(format!("{level:?} {message}"));
    }

    fn metric(&self, name: &str, value: f64) {
        self.note(format!("metric {name} {value}"));
    }

    fn cancelled(&self) -> bool {
        self.note("cancelled?".to_owned());
        true
    }
}

impl Recorder {
    /// A recorder for a component of which a method may panic or fail, and some are not called.
    pub fn new(
        component: Option<&'static str>,
        panics_in: Option<&'static str>,
        fails_in: Option<&'static str>,
        left_out: &[&'static str],
    ) -> Self {
        let left_out = left_out.to_vec();
        Self { lines: Vec::new(), log: Arc::default(), component, panics_in, fails_in, panicked: false, left_out }
    }

    /// The component's configuration.
    pub fn config(&self) -> Value {
        json!({ "panics_in": self.panics_in, "fails_in": self.fails_in })
    }

    /// What components are given.
    pub fn setup(&self) -> Setup {
        Setup {
            services: Services::new(self.log.clone()),
            seed: 7,
            threads: 2,
            model_path: Some("model/directory".into()),
            model_config: json!({ "model_type": "small", "layers": [1, 2.5] }),
            source: "rows".to_owned(),
            max_seq_len: 2048,
            ..Setup::default()
        }
    }

    /// Whether this method is to fail.
    pub fn fails_in(&self, method: &str) -> bool {
        self.fails_in == Some(method)
    }

    /// Notes what a call answers.
    pub fn call<T: Debug>(&mut self, method: &'static str, call: impl FnMut() -> Result<T>) -> Option<T> {
        self.call_for(method, |value| format!("{value:?}"), call)
    }

    /// The same, where `show` says what is noted of the answer.
    pub fn call_for<T>(
        &mut self,
        method: &'static str,
        show: impl FnOnce(&T) -> String,
        mut call: impl FnMut() -> Result<T>,
    ) -> Option<T> {
        let is_used = !self.panicked;
        let answer = self.make(method, show, &mut call);
        if is_used && self.panicked && self.component.is_some() {
            let error = call().err().expect("a component that has panicked is not used again");
            assert!(error.is_after_a_panic() && error.component() == self.component, "{method}: {error:?}");
        }
        answer
    }

    /// The same for a call that any thread may make.
    pub fn call_shared<T: Debug>(&mut self, method: &'static str, call: impl Fn() -> Result<T> + Sync) -> Option<T> {
        self.panic_on_threads(method, &call);
        self.call(method, &call)
    }

    /// If this method is to panic, lets it do so on several threads at once: each gets the error.
    pub fn panic_on_threads<T>(&mut self, method: &'static str, call: impl Fn() -> Result<T> + Sync) {
        if self.panics_in == Some(method) && !self.panicked {
            let turn = Barrier::new(4);
            let failed = || {
                turn.wait();
                caught(&call).err()
            };
            let errors = thread::scope(|scope| [(); 4].map(|()| scope.spawn(failed)).map(|thread| thread.join()));
            for error in errors {
                let error = error.expect("the panic is caught").expect("it panics");
                assert_eq!(error.message(), format!("the plugin panicked: {method} panics"));
                assert_eq!(error.component(), self.component);
            }
        }
    }

    /// The same for a method that gives no errors. Behind the boundary its panic is seen in the next call that can give
    /// one, which is `next`.
    pub fn call_infallible<T: Debug>(
        &mut self,
        method: &'static str,
        mut call: impl FnMut() -> T,
        next: impl FnOnce() -> Result<()>,
    ) -> Option<T> {
        let is_seen_later = self.panics_in == Some(method) && self.component.is_some();
        let mut next = Some(next);
        self.make(
            method,
            |value| format!("{value:?}"),
            || {
                let answer = call();
                match next.take_if(|_| is_seen_later) {
                    None => Ok(answer),
                    Some(next) => {
                        let error = next().expect_err("a component that has panicked is not used again");
                        assert!(error.is_after_a_panic(), "{error:?}");
                        Err(error)
                    }
                }
            },
        )
    }

    /// What a factory makes, which one panic does not break; `show` says what is noted of it.
    pub fn make<T>(
        &mut self,
        method: &'static str,
        show: impl FnOnce(&T) -> String,
        make: impl FnMut() -> Result<T>,
    ) -> Option<T> {
        if self.panicked || self.left_out.contains(&method) {
            return None;
        }
        let answer = caught(make);
        self.note_log();
        match answer {
            Ok(value) => {
                self.lines.push(format!("{method}: {}", show(&value)));
                Some(value)
            }
            Err(error) => {
                self.note_error(method, &error);
                None
            }
        }
    }

    /// Drops a component, or a part of one.
    pub fn drop<T>(&mut self, method: &'static str, component: T) {
        let dropped = caught(|| {
            drop(component);
            Ok(())
        });
        let log = self.log.take();
        // Behind the boundary a panic in a destructor is logged.
        let panic = format!("the plugin panicked: {method} panics (in its destructor");
        let logged = log.iter().find(|line| line.contains(&panic));
        if let (Some(line), Some(component)) = (logged, self.component) {
            assert!(line.starts_with(&format!("Warn {component}: ")), "{line}");
        }
        if !self.panicked && (dropped.is_err() || logged.is_some()) {
            self.panicked = true;
            self.lines.push(format!("{method}: panic: {method} panics"));
        }
    }

    /// The lines; what should have failed has failed.
    pub fn finish(mut self) -> Vec<String> {
        self.note_log();
        if let Some(method) = self.panics_in {
            let line = format!("panic: {method} panics");
            assert!(
                self.lines.iter().any(|noted| noted.ends_with(&line)),
                "{method} was not called: {:#?}",
                self.lines
            );
        }
        self.lines
    }

    fn note_log(&mut self) {
        self.lines.extend(self.log.take().into_iter().map(|line| format!("  host: {line}")));
    }

    fn note_error(&mut self, method: &str, error: &Error) {
        if self.component.is_some() {
            assert!(error.component().is_some(), "{method}: {error:?}");
        }
        if let Some(message) = error.message().strip_prefix("the plugin panicked: ") {
            self.panicked |= self.panics_in.is_some_and(|method| message == format!("{method} panics"));
            return self.lines.push(format!("{method}: panic: {message}"));
        }
        let context: Vec<_> = error.context().iter().map(|(key, value)| format!("{key} {value}")).collect();
        let (code, causes) = (error.code(), error.causes());
        self.lines.push(format!("{method}: error: {code:?} {}; {context:?} {causes:?}", error.message()));
    }
}

/// What a call gives; a panic becomes the error that the boundary makes of it.
fn caught<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    let panicked = |payload: Box<dyn Any + Send>| {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)");
        Error::plugin(format!("the plugin panicked: {text}"))
    };
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| Err(panicked(payload)))
}
