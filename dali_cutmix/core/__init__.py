"""What every room may use: argument checks, errors, DALI, draws, math, frames, trees, threads."""
