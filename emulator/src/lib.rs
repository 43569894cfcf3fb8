//! Executes PTX on the CPU. Knows no tensor.
