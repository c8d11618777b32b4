//! Harness for real clusters, scenario tests, demo and benchmarks.
