//! The options of how frozen weights are held.

use clap::CommandFactory;
use clap::error::ErrorKind;

use super::Cli;
use crate::error::Result;
use crate::io::model::ModelFiles;
use crate::io::quantized::{Choice, Scheme};
use crate::ops::int8_matmul::Backward;

#[derive(clap::Args)]
pub(super) struct QuantizeArgs {
    /// How frozen weights of linear layers are held [default: as the model's files hold them]
    #[arg(long, value_name = "SCHEME")]
    quantize: Option<Scheme>,
    /// Beside int8 weights, activations of this magnitude or more stay floats; 0: none do [default: 6]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    int8_threshold: Option<f32>,
    /// How int8 layers make their input's gradient: in int8 too, or from their weights as floats [default: int8]
    #[arg(long, value_name = "HOW")]
    int8_backward: Option<Backward>,
    /// Quantize the scales of 4-bit weights too
    #[arg(long)]
    double_quant: bool,
}

impl QuantizeArgs {
    /// `files` with their linear layers held as the options say. Options that say nothing of that end the process.
    pub(super) fn apply(&self, files: ModelFiles) -> Result<ModelFiles> {
        if let Some(threshold) = self.int8_threshold.filter(|threshold| !(*threshold >= 0.0 && threshold.is_finite())) {
            usage(format!("--int8-threshold must be a number from 0 on, got {threshold}"));
        }
        let stored = files.stored().map_or(Scheme::None, |stored| stored.scheme);
        let scheme = self.quantize.unwrap_or(stored);
        let of_int8 =
            [("--int8-threshold", self.int8_threshold.is_some()), ("--int8-backward", self.int8_backward.is_some())];
        if let Some((option, _)) = of_int8.into_iter().find(|(_, is_given)| *is_given && scheme != Scheme::Int8) {
            usage(format!("{option} is of --quantize int8, not {scheme}"));
        }
        if self.double_quant && !matches!(scheme, Scheme::Nf4 | Scheme::Fp4) {
            usage(format!("--double-quant is of --quantize nf4 and fp4, not {scheme}"));
        }
        files.quantized(&Choice {
            scheme: self.quantize,
            double: self.double_quant,
            threshold: self.int8_threshold,
            backward: self.int8_backward,
        })
    }

    /// What the option --quantize says.
    pub(super) fn scheme(&self) -> Option<Scheme> {
        self.quantize
    }
}

/// Ends the process as a wrong use of the command line.
pub(super) fn usage(detail: String) -> ! {
    Cli::command().error(ErrorKind::ArgumentConflict, detail).exit()
}
