//! The models that compute as Llama does.

/// Which of them a model is, with what only that one's config.json says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelType {
    /// Llama.
    Llama {
        /// Whether the query, key, value and output projections have a bias.
        attention_bias: bool,
        /// Whether the gate, up and down projections have a bias.
        mlp_bias: bool,
    },
    /// Mistral 7B and its relatives: no biases.
    Mistral {
        /// How many tokens back attention reaches, its own included.
        sliding_window: Option<usize>,
    },
    /// Qwen 2 and 2.5: biases of the query, key and value projections alone.
    Qwen2,
}

/// Which linear layers have a bias.
pub(super) struct Biases {
    pub qkv: bool,
    pub o: bool,
    pub mlp: bool,
}

impl ModelType {
    pub(super) fn biases(self) -> Biases {
        match self {
            Self::Llama { attention_bias, mlp_bias } => {
                Biases { qkv: attention_bias, o: attention_bias, mlp: mlp_bias }
            }
            Self::Mistral { .. } => Biases { qkv: false, o: false, mlp: false },
            Self::Qwen2 => Biases { qkv: true, o: false, mlp: false },
        }
    }

    /// How many tokens back attention reaches, its own included, if not to the beginning.
    pub(super) fn sliding_window(self) -> Option<usize> {
        match self {
            Self::Mistral { sliding_window } => sliding_window,
            _ => None,
        }
    }
}

impl Default for ModelType {
    /// A Llama without biases.
    fn default() -> Self {
        Self::Llama { attention_bias: false, mlp_bias: false }
    }
}
