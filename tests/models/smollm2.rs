//! SmolLM2-135M-Instruct, if it is on this machine (`--model smollm2-135m` fetches it).
