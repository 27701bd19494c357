//! A model that calls all that a host does for models.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use mdt_plugin_api::prelude::*;
use mdt_plugin_api::{BlockFunction, serde_json::json};
use mdt_plugin_api::{ModelHost, Pass};

use super::compute::tensor;
use super::faults::Faults;
use super::recorder::Recorder;
use super::source::Source;

/// The model.
pub struct Small {
    faults: Faults,
    services: Services,
}

impl Component for Small {
    type Config = Faults;

    fn create(faults: Faults, setup: &Setup) -> Result<Self> {
        faults.at("create")?;
        setup.services.log(LogLevel::Info, &format!("a model of {}", setup.model_config));
        Ok(Self { faults, services: setup.services.clone() })
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        self.faults.panic_at("drop");
    }
}

impl Model for Small {
    fn spec(&self) -> ModelSpec {
        self.faults.panic_at("spec");
        let parameter = |name: &str, role, init| ParameterSpec::new(name, [4, 2], role, init);
        let parameters = vec![
            parameter("embedding.weight", Role::Embedding, Init::Normal { std: 0.02 }).alias("other.embedding.weight"),
            parameter("linear.weight", Role::Linear, Init::Zeros).in_out(),
            parameter("norm.weight", Role::Norm, Init::Ones).frozen(),
            parameter("experts.weight", Role::Experts, Init::Ones)
                .stacked_from(["experts.0.weight", "experts.1.weight"]),
            parameter("head.weight", Role::Other, Init::Zeros).tied_to("embedding.weight"),
        ];
        let head = Head { scale: 0.5, soft_cap: Some(30.0), ..Head::new("head") };
        let config = json!({ "tie_word_embeddings": true }).as_object().cloned().unwrap_or_default();
        ModelSpec { config, ..ModelSpec::new(parameters, 4, head) }
    }

    fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor> {
        self.faults.at("hidden")?;
        let x = ctx.embedding("embedding", tokens)?;
        let [q, k, v] = ctx.linears(["q", "k", "v"], &x)?;
        let q = ctx.rope(&(&q + &ctx.positions()?)?, &ctx.parameter("frequencies")?, 0.5)?;
        let capped = Attention { window: Some(3), soft_cap: Some(20.0), dropout: 0.1, ..Attention::new(0.25) };
        let attended = ctx.attention("first", &q, &k, &v, &capped)?;
        let attended = (&attended + &ctx.attention("second", &q, &k, &v, &Attention::new(0.25))?)?;
        let [up, down] = ctx.expert_linears(["up", "down"], &attended, tokens)?;
        let attended = match ctx.earlier("state")? {
            Some(earlier) => (&(&up * &down)? + &earlier)?,
            None => up,
        };
        ctx.keep("state", &attended)?;
        ctx.auxiliary_loss("balance", &attended.sum()?, 0.01)?;
        let absent = ctx.host().parameter("absent")?.is_none();
        let pass = (ctx.training(), ctx.length(), ctx.key("dropout"), absent);
        self.services.log(LogLevel::Info, &format!("{pass:?}"));
        ctx.block("block", [&attended, &x], |ctx, [x, y]| ctx.linear("up", &(x + y)?))
    }
}

/// What a host does, in small.
#[derive(Clone)]
struct Host {
    compute: Rc<dyn Compute>,
    services: Services,
    kept: Rc<RefCell<BTreeMap<String, Vec<f32>>>>,
}

impl ModelHost for Host {
    fn linears(&self, names: &[&str], x: &Tensor) -> Result<Vec<Tensor>> {
        (0..names.len()).map(|index| x.multiply(index as f64 + 2.0)).collect()
    }

    fn expert_linears(&self, names: &[&str], x: &Tensor, experts: &Tensor) -> Result<Vec<Tensor>> {
        names.iter().map(|name| (x * experts)?.multiply(name.len() as f64)).collect()
    }

    fn auxiliary_loss(&self, name: &str, value: &Tensor, coefficient: f64) -> Result<()> {
        self.services.log(LogLevel::Info, &format!("loss {name} {} {coefficient}", value.item()?));
        Ok(())
    }

    fn earlier(&self, name: &str) -> Result<Option<Tensor>> {
        let kept = self.kept.borrow().get(name).cloned();
        kept.map(|numbers| tensor(&self.compute, &numbers)).transpose()
    }

    fn keep(&self, name: &str, tensor: &Tensor) -> Result<()> {
        self.kept.borrow_mut().insert(name.to_owned(), tensor.to_vec()?);
        Ok(())
    }

    fn embedding(&self, name: &str, ids: &Tensor) -> Result<Tensor> {
        if ids.sum()?.item()? == 0.0 {
            return Err(Error::input(format!("`{name}` has no token 0")).with("token", 0));
        }
        ids.plus(1.0)
    }

    fn parameter(&self, name: &str) -> Result<Option<Tensor>> {
        (name != "absent").then(|| tensor(&self.compute, &[0.5])).transpose()
    }

    fn positions(&self) -> Result<Tensor> {
        tensor(&self.compute, &[0.0, 1.0, 2.0])
    }

    fn rope(&self, x: &Tensor, inverse_frequencies: &Tensor, scale: f64) -> Result<Tensor> {
        (x * inverse_frequencies)?.multiply(scale)
    }

    fn attention(&self, name: &str, [queries, keys, values]: [&Tensor; 3], options: &Attention) -> Result<Tensor> {
        self.services.log(LogLevel::Info, &format!("attention {name} {options:?}"));
        &(queries * keys)? + values
    }

    fn block(&self, name: &str, inputs: &[&Tensor], function: Rc<BlockFunction>) -> Result<Vec<Tensor>> {
        self.services.log(LogLevel::Info, &format!("block {name}"));
        let inputs = inputs.iter().map(|input| input.try_clone()).collect::<Result<Vec<_>>>()?;
        function(&ModelContext::new(Rc::new(self.clone()), Rc::clone(&self.compute)), &inputs)
    }

    fn key(&self, place: &str) -> u64 {
        place.len() as u64
    }

    fn pass(&self) -> Pass {
        Pass { training: true, length: 3 }
    }
}

/// The methods that may fail.
pub const METHODS: &[&str] = &["spec", "hidden"];

/// Calls each method.
pub fn exercise(recorder: &mut Recorder, source: &Source) {
    let (config, setup) = (recorder.config(), recorder.setup());
    // Behind the boundary the specification is asked for once, when the model is made.
    let made = recorder.make(
        "spec",
        |made: &(_, ModelSpec)| format!("{:?}", made.1),
        || {
            let model = source.model(&config, &setup)?;
            let spec = model.spec();
            Ok((model, spec))
        },
    );
    let Some((model, _)) = made else { return };
    let compute = source.plain_compute();
    let host = Host { compute: Rc::clone(&compute), services: setup.services.clone(), kept: Rc::default() };
    let ctx = ModelContext::new(Rc::new(host), Rc::clone(&compute));
    for tokens in [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [0.0; 3]] {
        recorder.call("hidden", || model.hidden(&ctx, &tensor(&compute, &tokens)?)?.to_vec::<f32>());
    }
    recorder.drop("drop", model);
}
