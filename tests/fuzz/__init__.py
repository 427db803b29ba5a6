"""Random calls of everything that gru_ext computes, and wrong ones, judged by float64. See docs/reliability.md."""
