//! `vicugna inspect`: loss, logits and gradients, for holding numbers against another framework.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::model::ModelArgs;
use super::report::Report;
use crate::autograd::{Tensor, backward, no_grad};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::generate::argmax;
use crate::io::safetensors::write_tensors;
use crate::models::llama::Llama;
use crate::nn::{Batch, Plain, Sequence};
use crate::ops::cross_entropy::IGNORE_INDEX;
use crate::ops::elementwise::cast;

/// Print loss, most likely tokens and gradient norms of given token ids
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Token ids, separated by commas; several times for a batch
    #[arg(long, required = true, value_name = "1,2,3", allow_hyphen_values = true)]
    input_ids: Vec<String>,
    /// Labels of the --input-ids at the same place, -100 ignored; all tokens count by default
    #[arg(long, value_name = "-100,2,3", allow_hyphen_values = true)]
    labels: Vec<String>,
    /// Write the logits [T, V] here
    #[arg(long, value_name = "F.safetensors")]
    logits: Option<PathBuf>,
    /// Write the gradient of every trained parameter here
    #[arg(long, value_name = "F.safetensors")]
    grads: Option<PathBuf>,
}

pub(super) fn run(args: &Args, report: &Report) -> Result<()> {
    if args.logits.is_some() && args.logits == args.grads {
        return Err(Error::input("--grads", "is the file of --logits").with_hint("name two files"));
    }
    let sequences = sequences(args)?;
    let model = args.model.load(&args.model.find(report)?, report)?;
    if args.model.adapter.is_none() {
        model.train_weights()?;
    }
    let batch = Batch::new(&sequences, &model.device())?;
    if batch.supervised == 0 && args.grads.is_some() {
        return Err(Error::input("--grads", "no token has a label, so that there is no loss and no gradient")
            .with_hint("a label counts from the second token of a sequence on"));
    }
    let logits = no_grad(|| model.logits(&model.hidden(&batch, None, &Plain)?))?;
    if let Some(path) = &args.logits {
        write_tensors(path, &BTreeMap::from([("logits".to_string(), logits.clone())]))?;
    }
    let (loss, grads) = if batch.supervised > 0 { differentiate(&model, &batch)? } else { (None, BTreeMap::new()) };
    if let Some(path) = &args.grads {
        write_tensors(path, &grads)?;
    }
    let (vocabulary, logits) = (logits.shape().last(), logits.to_vec::<f32>()?);
    let argmax: Vec<u32> = logits.chunks(vocabulary).map(argmax).collect();
    let number = loss.unwrap_or_else(|| logits.iter().sum());
    if !number.is_finite() {
        let hint = "a weight is not finite, or --dtype too narrow: --logits and --grads show where it begins";
        let what = if loss.is_some() { "loss" } else { "the sum of the logits" };
        return Err(Error::input(what, format!("is {number}")).with_hint(hint));
    }
    let grad_norms = grads.iter().map(|(name, g)| Ok((name, norm(g)?))).collect::<Result<BTreeMap<_, _>>>()?;
    report.result(&serde_json::json!({ "loss": loss, "argmax": argmax, "grad_norms": grad_norms }), || {
        let loss = loss.map_or_else(|| "none, as no token has a label".into(), |loss| loss.to_string());
        let norms: Vec<String> = grad_norms.iter().map(|(name, norm)| format!("{norm:12.6e}  {name}")).collect();
        format!("loss: {loss}\nargmax: {argmax:?}\ngradient norms:\n{}", norms.join("\n"))
    })
}

/// The loss and its gradients, by the names of the weights.
fn differentiate(model: &Llama, batch: &Batch) -> Result<(Option<f32>, BTreeMap<String, Tensor>)> {
    let loss = model.loss(batch, batch.supervised as f32, None, &Plain)?;
    let grads = gradients(model, &loss)?;
    Ok((Some(loss.to_vec::<f32>()?.first().copied().unwrap_or(f32::NAN)), grads))
}

fn gradients(model: &Llama, loss: &Tensor) -> Result<BTreeMap<String, Tensor>> {
    let mut gradients = backward(loss)?;
    let taken = model.trained().into_iter().map(|(name, parameter)| {
        let weight = parameter.get();
        let gradient =
            gradients.take(&weight).map_or_else(|| Tensor::zeros(&weight.device(), DType::F32, weight.shape()), Ok)?;
        Ok((name, cast(&gradient, DType::F32)?))
    });
    taken.collect()
}

fn norm(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.to_vec::<f32>()?.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt())
}

fn sequences(args: &Args) -> Result<Vec<Sequence>> {
    if !args.labels.is_empty() && args.labels.len() != args.input_ids.len() {
        let detail = format!("given {} times, but --input-ids {} times", args.labels.len(), args.input_ids.len());
        return Err(Error::input("--labels", detail).with_hint("give one for each, or none"));
    }
    let sequence = |(i, ids): (usize, &String)| {
        let input_ids: Vec<u32> = parse("--input-ids", ids)?;
        let labels = match args.labels.get(i) {
            Some(labels) => parse("--labels", labels)?,
            None => input_ids.iter().map(|&id| i32::try_from(id).unwrap_or(IGNORE_INDEX)).collect(),
        };
        Ok(Sequence { input_ids, labels })
    };
    args.input_ids.iter().enumerate().map(sequence).collect()
}

fn parse<T: std::str::FromStr>(option: &str, list: &str) -> Result<Vec<T>> {
    let number =
        |s: &str| s.trim().parse().map_err(|_| Error::input(option, format!("{:?} is not a token id", s.trim())));
    list.split(',').map(number).collect()
}
